"""Adds vectors that describe items to a prepared data set."""
