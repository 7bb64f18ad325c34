"""Helpers that all other packages use: for files, numbers, memory, errors and custom code."""
