"""Experiments: runs many configurations that one file describes, and compares their results."""
