"""Checkpoint and auto-save files: their names, their layout, their reader, and what they refer to."""
