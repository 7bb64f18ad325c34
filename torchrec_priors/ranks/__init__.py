"""The ranks of a command: how they meet, exchange tensors, and report a rank that is missing."""
