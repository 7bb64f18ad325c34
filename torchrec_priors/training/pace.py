"""Measures how fast a training is, and expects when it ends."""

import time
from dataclasses import dataclass

from torchrec_priors.training.callbacks import Step
from torchrec_priors.training.step import StepResult

# The share of the latest step in the mean duration of a step.
_LATEST = 0.1


@dataclass(frozen=True)
class Epoch:
    """One pass through the training part.

    Attributes:
        steps: the number of global batches.
        tokens: the number of context items.
    """

    steps: int
    tokens: int


class Pace:
    """The speed of a training since it was started or resumed."""

    def __init__(self, epoch: Epoch, *, steps: int, first_step: int) -> None:
        """
        Args:
            epoch: one pass through the training part.
            steps: the number of steps of the whole schedule.
            first_step: the number of steps that were completed before.
        """
        self._epoch = epoch
        self._steps = steps
        self._first = first_step
        self._started = time.monotonic()
        self._step_began = self._started
        self._seconds_a_step: float | None = None

    def resume(self) -> None:
        """Notes that a step begins now: what happened since the last step is not part of it."""
        self._step_began = time.monotonic()

    def after(self, step: int, result: StepResult) -> Step:
        """Describes a step that has ended now.

        Args:
            step: the number of completed steps.
            result: the result of the step.
        """
        now = time.monotonic()
        latest = now - self._step_began
        self._step_began = now
        if self._seconds_a_step is None:
            self._seconds_a_step = latest
        self._seconds_a_step += _LATEST * (latest - self._seconds_a_step)

        # The whole time since the start counts, because evaluations will come again.
        whole_seconds_a_step = (now - self._started) / (step - self._first)
        tokens_a_step = self._epoch.tokens / self._epoch.steps
        return Step(
            step=step,
            steps=self._steps,
            epoch=step / self._epoch.steps,
            epochs=self._steps / self._epoch.steps,
            loss=result.loss,
            gradient_norm=result.gradient_norm,
            tokens_per_second=tokens_a_step / max(self._seconds_a_step, 1e-9),
            seconds_left=whole_seconds_a_step * (self._steps - step),
        )
