"""Answers from the files of a home, without a daemon: its sessions, their states, sizes on disk, and faults."""
