"""Tracks a run with TensorBoard: the curves are those of the run's own folder `events/`."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from torchrec_priors.training.tracking.tracker import TrackedRun


class TensorBoardTracker:
    """Writes events into a folder of the run's name, and the hyper-parameters."""

    def __init__(self, place: str, run: TrackedRun) -> None:
        """
        Args:
            place: the folder of all runs; empty for `tensorboard` in the working folder.
        """
        folder = Path(place or "tensorboard") / run.name
        # TensorBoard hides earlier events of the steps that are logged again.
        self._events = SummaryWriter(str(folder), purge_step=run.first_step + 1)
        if not run.first_step:
            for summary in hparams(dict(run.parameters), {}):
                self._events._get_file_writer().add_summary(summary)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def finish(self, summary: Mapping[str, float]) -> None:
        self._events.close()
