"""Checkpoints and auto-saves: the decision when one is due, and the writing of its file."""
