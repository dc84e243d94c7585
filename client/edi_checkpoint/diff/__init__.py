"""Finds how two states differ: for programs (`patch`) and for people (`changes`, `summary`). Pure: no clock, no disk.

A state is given as its keys with their JSON texts, as in `wire.messages.StateAt`. `delta` compares two states, with
`alignment` for the elements of lists. The other modules read its result. `words` compares two texts.
"""
