"""Tracks a run with MLflow, in a folder of files or on a server."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from torchrec_priors.training.tracking.tracker import TrackedRun

_EXPERIMENT = "torchrec_priors"
_TAG = "torchrec_priors.run_id"
# What MLflow does not allow in the name of a metric.
_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)
# MLflow takes at most this many hyper-parameters in a call, and characters of a value.
_PARAMETERS = 100
_CHARACTERS = 500


class MlflowTracker:
    """Writes to one MLflow run. A resumed training continues it."""

    def __init__(self, place: str, run: TrackedRun) -> None:
        """
        Args:
            place: a folder, or the URI of a server or a database; empty for MLFLOW_TRACKING_URI.
                The experiment is called "torchrec_priors", or as MLFLOW_EXPERIMENT_NAME says.
        """
        # MLflow has deprecated folders of files; without this, its latest versions refuse them.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = place or None
        if place and "://" not in place:
            uri = Path(place).absolute().as_uri()
        self._client = MlflowClient(uri)

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        # The runs of an experiment are told apart by a tag, because their names may repeat.
        earlier = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.run_id}'")
        if earlier:
            self._id = earlier[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {_TAG: run.run_id}
            created = self._client.create_run(experiment, run_name=run.name, tags=tags)
            self._id = created.info.run_id
            self._write_parameters(run)
        self._last: dict[str, int] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1e3)
        # Steps that a resumed run trains again are in MLflow already, with the same values.
        new = [
            Metric(_key(name), float(value), now, step)
            for name, value in values.items()
            if step > self._last_step(_key(name))
        ]
        self._client.log_batch(self._id, metrics=new)
        self._last.update({metric.key: step for metric in new})

    def finish(self, summary: Mapping[str, float]) -> None:
        tags = [RunTag(_key(name), str(value)) for name, value in summary.items()]
        self._client.log_batch(self._id, tags=tags)
        self._client.set_terminated(self._id, "FINISHED" if summary else "KILLED")

    def _write_parameters(self, run: TrackedRun) -> None:
        parameters = [
            Param(name, str(value)[:_CHARACTERS]) for name, value in run.parameters.items()
        ]
        for first in range(0, len(parameters), _PARAMETERS):
            chosen = parameters[first : first + _PARAMETERS]
            self._client.log_batch(self._id, params=chosen)

    def _last_step(self, key: str) -> int:
        """Returns the last step of a curve; -1 if MLflow has no point of it."""
        if key not in self._last:
            try:
                history = self._client.get_metric_history(self._id, key)
            except MlflowException:  # a folder of files has no such curve
                history = []
            self._last[key] = max((point.step for point in history), default=-1)
        return self._last[key]


def _key(name: str) -> str:
    """Returns the name of a metric in a form that MLflow allows.

    >>> _key("validation/ndcg@10")
    'validation/ndcg_at_10'
    >>> _key("group/genre/Children's/users")
    'group/genre/Children_s/users'
    """
    return _FORBIDDEN.sub("_", name.replace("@", "_at_"))
