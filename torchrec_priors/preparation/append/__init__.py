"""Adds new raw files to a prepared data set."""
