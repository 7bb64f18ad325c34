"""Core operations. Each has one signature; every fast version has a plain PyTorch reference.

This folder needs torch, but neither TorchRec nor libraries that read data.
"""
