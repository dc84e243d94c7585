"""Recovery at the start: the journal, the states of dead writers, and files that are missing."""
