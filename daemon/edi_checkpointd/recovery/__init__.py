"""Recovery: the start after a crash, what documents tell the journal, and sessions whose files are missing."""
