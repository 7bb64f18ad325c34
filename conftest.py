"""Modules whose library is not installed have no doctests."""

import importlib.util

# The library that the modules of a pattern import.
_NEEDS = {
    "torchrec_priors/ops/*_triton.py": "triton",
    "torchrec_priors/training/tracking/on_mlflow.py": "mlflow",
    "torchrec_priors/training/tracking/on_wandb.py": "wandb",
}

collect_ignore_glob = [
    pattern for pattern, library in _NEEDS.items() if not importlib.util.find_spec(library)
]
