"""The messages between client and daemon, the entries in them, and their bytes. No I/O and no clock."""
