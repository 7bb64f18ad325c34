"""The prepared data set on disk: its manifest, its files, and how they are opened and read.

Nothing here imports torch.
"""
