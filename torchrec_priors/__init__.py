"""Generative recommenders guided by human priors, on TorchRec."""

import importlib
from typing import TYPE_CHECKING, Any

from torchrec_priors.common import versions

if TYPE_CHECKING:
    from torchrec_priors.serving.run import (
        Answer,
        Event,
        Levers,
        LoadedRun,
        Recommendation,
        Request,
        UserContext,
        load_run,
    )

__all__ = [
    "Answer",
    "Event",
    "Levers",
    "LoadedRun",
    "Recommendation",
    "Request",
    "UserContext",
    "load_run",
]

versions.check()


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first used."""
    if name in __all__:
        return getattr(importlib.import_module("torchrec_priors.serving.run"), name)
    raise AttributeError(f"module 'torchrec_priors' has no attribute '{name}'")
