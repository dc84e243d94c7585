"""The outbox: the files into which a writer publishes, and what other processes read from them."""
