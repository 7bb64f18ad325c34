"""Hyper-parameter search for an experiment's cells with Optuna, using only the validation split."""
