"""Modules whose library is not installed have no doctests."""

import importlib.util

collect_ignore = (
    [] if importlib.util.find_spec("triton") else ["torchrec_priors/ops/hstu_attention_triton.py"]
)
