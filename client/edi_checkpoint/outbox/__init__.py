"""The outbox: the files in which a writer stores its records, and how other processes read them."""
