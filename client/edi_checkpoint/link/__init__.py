"""The connection to the daemon: the socket, the link thread, the streams, and the start of a daemon."""
