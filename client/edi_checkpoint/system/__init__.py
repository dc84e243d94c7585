"""Paths, settings, locks, processes and the clock: all that the package needs of the operating system."""
