"""The tree of adapters, which turns one user state into one query per prior path."""
