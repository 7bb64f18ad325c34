"""Connects the ranks of a command, exchanges tensors between them, and reports lost ranks."""
