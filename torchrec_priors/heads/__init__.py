"""The adapter tree: one user state -> one query per prior path."""
