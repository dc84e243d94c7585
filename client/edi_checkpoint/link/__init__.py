"""The connection to the daemon: the socket, its thread, the streams, and the start of a daemon."""
