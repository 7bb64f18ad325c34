"""TorchX builtins that this package replaces, found by TorchX through the entry points in
pyproject.toml."""
