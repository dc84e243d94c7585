"""The purge: it deletes sessions and everything that names them."""
