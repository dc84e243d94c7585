"""Checkpoint and auto-save files: their names, layout and reader, and the attachments and files that they refer to."""
