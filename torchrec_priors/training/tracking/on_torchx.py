"""Tracks a run with the trackers of TorchX that `.torchxconfig` names.

TorchX's trackers store what an application was and what came out of it: here the hyper-parameters,
the latest value of each metric, the summary and the run's folder. They have no curves.
"""

from collections.abc import Mapping

from torchx.tracker import app_run_from_env

from torchrec_priors.training.tracking.tracker import TrackedRun


class TorchxTracker:
    """Writes to the trackers with which TorchX has started this application."""

    def __init__(self, place: str, run: TrackedRun) -> None:
        """
        Args:
            place: unused, because TorchX sets the trackers in environment variables.
        """
        self._app = app_run_from_env()
        self._app.add_metadata(**run.parameters)
        self._app.add_artifact("run", str(run.folder.absolute()))
        self._latest: dict[str, float] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._latest = {**self._latest, "step": step, **values}

    def finish(self, summary: Mapping[str, float]) -> None:
        self._app.add_metadata(**{**self._latest, **summary})
