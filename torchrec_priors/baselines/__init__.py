"""Rivals of prior heads on the same data, table, loss and search."""
