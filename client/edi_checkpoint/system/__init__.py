"""Paths, settings, locks, processes and the clock: what the package needs of the operating system."""
