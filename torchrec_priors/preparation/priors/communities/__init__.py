"""Finds communities of items or users in a graph of the training interactions.

Items are connected by the users who interacted with both, and users by common items. Nothing here
imports torch.
"""
