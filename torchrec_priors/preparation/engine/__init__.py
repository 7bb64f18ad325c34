"""Engines compute Ibis expressions over raw files and work tables.

DuckDB works out of core on one machine; Spark works on one machine or a cluster.
"""
