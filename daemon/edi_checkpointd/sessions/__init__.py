"""Sessions in memory: the ledger, how it loads them, and what it answers about them."""
