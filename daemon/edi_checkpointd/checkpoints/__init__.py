"""Checkpoints and auto-saves: when one is due, and how it is written."""
