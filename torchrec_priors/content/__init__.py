"""Vectors of items that sentence models make from their texts."""
