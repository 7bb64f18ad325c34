"""What a tracker does, and what it is told about a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# A hyper-parameter, in a form that every tracker can store.
Parameter = bool | int | float | str


@dataclass(frozen=True)
class TrackedRun:
    """A run, as trackers know it.

    Attributes:
        name: the name of the run's folder.
        run_id: the id that the run got when it first started. A resumed run has the same.
        folder: the run's folder.
        first_step: the number of steps that are completed; later steps are trained (again) now.
        parameters: the whole configuration and the data set, by dotted key.
    """

    name: str
    run_id: str
    folder: Path
    first_step: int
    parameters: Mapping[str, Parameter]


class Tracker(Protocol):
    """Stores the curves of one run. Only rank 0 has trackers, and calls each in a single thread."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to the curve of each value.

        Args:
            step: the number of completed steps.
            values: the values, by the names of `metrics.jsonl`.
        """

    def finish(self, summary: Mapping[str, float]) -> None:
        """Writes what is not written yet.

        Args:
            summary: the numbers of the run's summary; empty if the run was stopped.
        """
