"""The writers: which process may write to a session, which one lives, and the outboxes of dead ones."""
