"""Rivals of the prior heads: other ways from states to queries, each a file of its own behind one protocol."""
