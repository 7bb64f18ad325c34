"""Trains a model: steps, the loop around them, optimizers, checkpoints and logs."""
