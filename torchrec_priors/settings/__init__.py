"""The settings of a run, with one file for each section of the configuration.

These modules do not import torch.
"""
