"""Sessions in memory: the ledger, loading, upkeep of the journal, events, and the answers to questions."""
