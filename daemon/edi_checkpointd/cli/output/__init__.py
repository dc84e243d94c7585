"""How the commands print anything: the screen, tables, trees, progress, and common phrases."""
