"""The way of an entry: it is received, checked and committed. Here an update becomes durable."""
