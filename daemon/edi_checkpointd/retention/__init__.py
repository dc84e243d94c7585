"""Retention: the rules that keep and delete, their plan, the trash, and the thread that deletes."""
