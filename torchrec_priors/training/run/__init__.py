"""Reads and writes the folder of a run: configuration, data, log and the origin of its weights."""
