"""Experiments: a matrix of runs described in one file, run to the end, compared with intervals."""
