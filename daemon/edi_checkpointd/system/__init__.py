"""The daemon's access to the operating system: files, locks, clocks, timers, threads and logs."""
