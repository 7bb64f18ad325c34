"""Writes, checks and reads checkpoints."""
