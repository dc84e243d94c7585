"""Writers: who may write to a session, who still lives, and the outboxes of the dead."""
