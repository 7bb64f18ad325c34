"""Reads a prepared data set, and makes jagged batches for training, evaluation and serving."""
