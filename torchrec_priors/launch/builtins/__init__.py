"""Replacements for built-in components of TorchX.

TorchX finds them through the entry points in pyproject.toml.
"""
