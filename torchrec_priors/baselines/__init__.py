"""Baseline models, one file each. They compute queries from states in place of prior heads."""
