"""Describes the apps of this package as applications of TorchX, which launches them."""
