"""Opens and reads a prepared data set: its manifest and its files.

Nothing here imports torch.
"""
