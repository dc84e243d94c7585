"""Files, locks, clocks, timers, threads and logs: what the daemon needs of the operating system."""
