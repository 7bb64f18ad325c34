"""Prepared data set -> jagged batches."""
