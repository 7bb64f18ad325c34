"""Prepares a data set from raw files. Nothing here imports torch."""
