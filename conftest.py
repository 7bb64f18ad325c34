"""Modules whose library is not installed have no doctests."""

import importlib.util

collect_ignore_glob = (
    [] if importlib.util.find_spec("triton") else ["torchrec_priors/ops/*_triton.py"]
)
