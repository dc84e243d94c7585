"""What the files of a home tell without a daemon: sessions, states, sizes, and what is wrong."""
