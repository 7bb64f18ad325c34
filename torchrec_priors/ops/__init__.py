"""Core operations. Every fast version has a plain PyTorch reference next to it.

This folder needs torch, but neither TorchRec nor libraries that read data.
"""
