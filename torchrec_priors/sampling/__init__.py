"""Samples in-group negatives from the rows that a rank owns."""
