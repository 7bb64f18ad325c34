"""Communities of items or users in the graph of who engaged with what in training.

Imports no torch.
"""
