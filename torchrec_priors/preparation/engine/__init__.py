"""Provides engines, which compute Ibis expressions over raw files and intermediate tables.

DuckDB works on one machine with data that may be larger than memory. Spark works on one machine or
on a cluster.
"""
