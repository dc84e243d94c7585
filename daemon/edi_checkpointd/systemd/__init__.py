"""The service under systemd: its units, their installation, and the messages to systemd."""
