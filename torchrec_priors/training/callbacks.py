"""Functions that a Python program gives to a training, which calls them after what they are for.

    tp.train("small", data, "runs/x", on_evaluation=lambda found: print(found.metrics["ndcg@10"]))

Only rank 0 calls them. An error that a function raises ends the training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """A step of training.

    Attributes:
        step: the number of completed steps.
        steps: the number of steps of the whole schedule.
        epoch: how often the training part has been gone through, such as 2.4.
        epochs: the same for the whole schedule.
        loss: the loss of the global batch.
        gradient_norm: the norm of the gradients of the dense parameters, before clipping.
        tokens_per_second: the number of context items that all ranks train on in a second.
        seconds_left: the expected time to the end of the schedule, with evaluations.
    """

    step: int
    steps: int
    epoch: float
    epochs: float
    loss: float
    gradient_norm: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on the validation split.

    Attributes:
        step: the number of completed steps.
        metrics: the metrics, by name.
        best: whether it is the best evaluation so far.
    """

    step: int
    metrics: Mapping[str, Any]
    best: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint. It is complete at the latest when the next one begins, or the run ends.

    Attributes:
        step: the number of completed steps.
        folder: the folder of the checkpoint.
        best: whether it is of the best evaluation so far.
    """

    step: int
    folder: Path
    best: bool


@dataclass(frozen=True)
class Callbacks:
    """The functions to call; None for nothing.

    Attributes:
        on_step: called after every step.
        on_evaluation: called after every evaluation on validation.
        on_checkpoint: called after every checkpoint.
    """

    on_step: Callable[[Step], object] | None = None
    on_evaluation: Callable[[Evaluation], object] | None = None
    on_checkpoint: Callable[[Saved], object] | None = None
