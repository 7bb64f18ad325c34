"""Prepares a log from tables (CSV, Parquet or data frames) without a corpus file."""
