"""Export and import: a session as an archive file."""
