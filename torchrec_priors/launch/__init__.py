"""How TorchX launches the apps."""
