"""Tracks a run with Weights & Biases. `WANDB_MODE=offline` writes to the disk only."""

from collections.abc import Mapping

import wandb

from torchrec_priors.training.tracking.tracker import TrackedRun

_PROJECT = "torchrec_priors"


class WandbTracker:
    """Writes to one run of Weights & Biases. A resumed training continues it."""

    def __init__(self, place: str, run: TrackedRun) -> None:
        """
        Args:
            place: the project; empty for "torchrec_priors".
        """
        self._run = wandb.init(
            project=place or _PROJECT,
            name=run.name,
            id=run.run_id,
            resume="allow",
            config=dict(run.parameters),
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # It leaves out steps before the last one, which a resumed run trains again.
        self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, float]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()
