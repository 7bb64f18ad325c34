"""Hyper-parameter search over an experiment's cells: by Optuna, on the validation split only."""
