"""Passes a run's numbers on to trackers, which never disturb the training.

    --track tensorboard:DIR   TensorBoard's folder of several runs
    --track mlflow:PLACE      a folder of files, or the URI of a server
    --track wandb:PROJECT     Weights & Biases
    --track torchx            the trackers that `.torchxconfig` names

Each tracker has a thread of its own, so the training does not wait for a slow server. A tracker
that fails says so once, and gets nothing more.
"""

import importlib
import importlib.util
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.training.tracking.tracker import TrackedRun, Tracker

log = logging.getLogger(__name__)

# For each tracker, the module and class in this folder, the library that it needs, and what
# installs the library.
_TRACKERS = {
    "tensorboard": ("on_tensorboard", "TensorBoardTracker", "tensorboard", "tensorboard"),
    "mlflow": ("on_mlflow", "MlflowTracker", "mlflow", "torchrec-priors[mlflow]"),
    "wandb": ("on_wandb", "WandbTracker", "wandb", "torchrec-priors[wandb]"),
    "torchx": ("on_torchx", "TorchxTracker", "torchx", "torchx"),
}
# The most seconds that the end of a training waits for a tracker.
_PATIENCE = 60.0


@dataclass(frozen=True)
class TrackerName:
    """A tracker that the user has named.

    Attributes:
        kind: its name, a key of `_TRACKERS`.
        place: where it tracks; empty for its default.
    """

    kind: str
    place: str


def read_trackers(texts: Iterable[str]) -> list[TrackerName]:
    """Reads the values of `--track`.

    Raises:
        UserError: a tracker is unknown, or its library is not installed.
    """
    named = []
    for text in texts:
        kind, _, place = text.partition(":")
        if kind not in _TRACKERS:
            raise UserError(f"--track: there is no tracker '{kind}': {nearest(kind, _TRACKERS)}")
        _, _, library, package = _TRACKERS[kind]
        if importlib.util.find_spec(library) is None:
            raise UserError(
                f"--track: {kind} needs a library that is not installed: pip install '{package}'"
            )
        if kind == "torchx" and place:
            raise UserError("--track: torchx takes no place, as .torchxconfig has it: leave it out")
        named.append(TrackerName(kind, place))
    return named


class Tracking:
    """The trackers of a run; without any, nothing happens."""

    def __init__(self, names: Iterable[TrackerName] = (), run: TrackedRun | None = None) -> None:
        """
        Args:
            names: the trackers.
            run: what they are told of the run; None only without trackers.
        """
        self._threads = []
        for name in names:
            assert run is not None
            self._threads.append(_InThread(name, run))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Passes the numbers among the values on; see `Tracker.log`."""
        numbers = numbers_of(values)
        for thread in self._threads:
            thread.send(lambda tracker: tracker.log(step, numbers))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Ends all trackers, and waits a while for what they have not written yet."""
        numbers = numbers_of(summary)
        for thread in self._threads:
            thread.send(lambda tracker: tracker.finish(numbers))
        for thread in self._threads:
            thread.end()
        self._threads = []


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values that are numbers.

    >>> numbers_of({"loss": 1.5, "steps": 2, "stopped": "end", "plain": None})
    {'loss': 1.5, 'steps': 2}
    """
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


class _InThread:
    """A tracker in a thread, which is also where its library is imported."""

    def __init__(self, name: TrackerName, run: TrackedRun) -> None:
        self._name = name
        self._run = run
        self._calls: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._failed = False
        # The interpreter does not wait for a daemon, so a server that hangs does not either.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def send(self, call: Callable[[Tracker], None]) -> None:
        if not self._failed:
            self._calls.put(call)

    def end(self) -> None:
        self._calls.put(None)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._say(f"it has not answered for {_PATIENCE:.0f} s")

    def _work(self) -> None:
        try:
            module, tracker_class, _, _ = _TRACKERS[self._name.kind]
            loaded = importlib.import_module(f"torchrec_priors.training.tracking.{module}")
            tracker: Tracker = getattr(loaded, tracker_class)(self._name.place, self._run)
            for call in iter(self._calls.get, None):
                call(tracker)
        except Exception as error:
            self._failed = True
            self._say(str(error).strip().partition("\n")[0] or type(error).__name__)

    def _say(self, reason: str) -> None:
        log.warning(
            "warning: --track %s: %s: nothing more is tracked there", self._name.kind, reason
        )
