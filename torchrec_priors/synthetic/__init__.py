"""Generates a synthetic marketplace log of any size, with planted interests.

Nothing here imports torch, so that generation starts fast.
"""
