"""Attachments: the store of their files and blobs, and the deletion of those that nothing names."""
