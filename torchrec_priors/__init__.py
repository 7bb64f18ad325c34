"""Generative recommenders guided by human priors, on TorchRec.

    import torchrec_priors as tp

`docs/python.md` describes what this module has. Everything is imported when it is first used, so
importing this module is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from torchrec_priors.common import versions

if TYPE_CHECKING:
    from torchrec_priors.api.add_prior import add_prior, name_groups
    from torchrec_priors.api.experiment import Experiment, experiment
    from torchrec_priors.api.metrics import Metrics
    from torchrec_priors.api.prepare import append, prepare
    from torchrec_priors.api.run import Run
    from torchrec_priors.api.train import train
    from torchrec_priors.errors import DivergedError, OutsideError, StoppedError, UserError
    from torchrec_priors.prepared.data_set import PreparedData
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
    from torchrec_priors.settings.run_config import RunConfig
    from torchrec_priors.training.callbacks import Evaluation, Saved, Step

__all__ = [
    "Answer",
    "DivergedError",
    "Evaluation",
    "Event",
    "Experiment",
    "Levers",
    "LoadedRun",
    "Metrics",
    "OutsideError",
    "PreparedData",
    "Recommendation",
    "Request",
    "Run",
    "RunConfig",
    "Saved",
    "Step",
    "StoppedError",
    "UserContext",
    "UserError",
    "add_prior",
    "append",
    "experiment",
    "load_run",
    "name_groups",
    "prepare",
    "train",
]
__version__ = "0.1.0"

# The module of each name that is not in `serving.run`.
_MODULES = {
    "DivergedError": "errors",
    "Evaluation": "training.callbacks",
    "Experiment": "api.experiment",
    "Metrics": "api.metrics",
    "OutsideError": "errors",
    "PreparedData": "prepared.data_set",
    "Run": "api.run",
    "RunConfig": "settings.run_config",
    "Saved": "training.callbacks",
    "Step": "training.callbacks",
    "StoppedError": "errors",
    "UserError": "errors",
    "add_prior": "api.add_prior",
    "append": "api.prepare",
    "experiment": "api.experiment",
    "name_groups": "api.add_prior",
    "prepare": "api.prepare",
    "train": "api.train",
}

versions.check()


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, because PyTorch and TorchRec take seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'torchrec_priors' has no attribute '{name}'")
    module = importlib.import_module(f"torchrec_priors.{_MODULES.get(name, 'serving.run')}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
