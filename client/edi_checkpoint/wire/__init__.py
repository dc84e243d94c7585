"""What goes over the wire and into records: entries, messages and their bytes. No I/O and no clock."""
