"""Baseline models: other ways from states to queries than prior heads, one file each."""
