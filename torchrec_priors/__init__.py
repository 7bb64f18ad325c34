"""Generative recommenders guided by human priors, on TorchRec."""

from torchrec_priors import versions

versions.check()
