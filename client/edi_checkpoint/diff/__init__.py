"""How two states differ: for programs (`patch`) and for people (`changes`, `summary`). Pure: no clock, no disk.

A state is given as its keys with their JSON texts, as `wire.messages.StateAt` has it. `delta` compares two, with lists
laid beside each other by `alignment`; the rest reads what it found, and `words` does the same for texts.
"""
