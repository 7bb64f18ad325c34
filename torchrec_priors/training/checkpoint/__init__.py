"""Checkpoints: their files, their keys, and how they are written, checked and read."""
