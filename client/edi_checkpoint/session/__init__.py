"""A session as an app writes and resumes it."""
