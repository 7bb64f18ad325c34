"""The logs of a run: `metrics.jsonl`, TensorBoard events, a progress bar. Only rank 0 writes.

Lines of `metrics.jsonl` look like these two, which are shortened. Each number is also a point of
TensorBoard's curve of the same name.

    {"step": 90, "loss": ..., "gradient_norm": ..., "rate": ..., "seconds": ..., "crc32": ...}
    {"step": 100, "validation/recall@5": ..., "validation/ndcg@5": ..., "crc32": ...}
"""

import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from torchrec_priors.common.files import append_to, write_whole
from torchrec_priors.common.system_errors import naming
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.run.log_lines import read_lines, to_line


class Logs:
    """Numbers by step, in lines and curves.

    When a run is resumed, lines past the checkpoint are dropped, so no step is logged twice.
    """

    def __init__(
        self,
        metrics: Path,
        events: Path,
        ranks: Ranks,
        *,
        steps: int,
        first_step: int,
        evaluated: bool = True,
    ) -> None:
        """
        Args:
            metrics: the file of lines.
            events: TensorBoard's folder.
            steps: the number of steps of the whole run.
            first_step: the number of completed steps; what was logged after them is done again.
            evaluated: False if the evaluation at that step will be done again.
        """
        self.leads = ranks.leads
        self.bar: Any = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            # None: no bar if the output is not a terminal.
            disable=None if self.leads else True,
            mininterval=1.0,
        )

        if self.leads:
            _keep_until(metrics, first_step, evaluated)
            self._lines = Lines(metrics)
            self._folder = events
            # TensorBoard hides events from `purge_step` on, which this run writes again.
            self._events = SummaryWriter(str(events), purge_step=first_step + 1)

    def add(self, step: int, values: dict[str, Any], prefix: str = "") -> None:
        """Adds one line, and one point to every curve.

        Args:
            step: the number of completed steps.
            prefix: what the names of the values begin with in the logs.
        """
        if not self.leads:
            return

        # The line first: if the disk is full, the curves have nothing that the file lacks.
        numbers = {f"{prefix}{name}": value for name, value in values.items()}
        self._lines.add(to_line({"step": step, **numbers}) + "\n")

        with naming(self._folder):
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes everything; before a checkpoint, so nothing up to its step can be lost."""
        if self.leads:
            with naming(self._folder):
                self._events.flush()

    def advance(self, **shown: str) -> None:
        """Moves the progress bar by a step.

        Args:
            shown: what the bar shows, by name.
        """
        self.bar.update(1)
        if shown:
            self.bar.set_postfix(shown, refresh=False)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self.leads:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.leads:
            self._lines.close()
            self._events.close()


class Lines:
    """A file that grows by whole lines: if the disk has no room for one, none of it stays."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = append_to(file)

    def add(self, line: str) -> None:
        """Appends a line.

        Args:
            line: with its line break.
        """
        descriptor = self._file.fileno()
        rest = line.encode("utf8")
        length = os.fstat(descriptor).st_size
        try:
            with naming(self._path):
                # A write may take only a part.
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
        except OSError:
            # Half a line in the middle of the file would be taken for damage.
            os.ftruncate(descriptor, length)
            raise

    def close(self) -> None:
        self._file.close()


def _keep_until(metrics: Path, step: int, evaluated: bool) -> None:
    """Drops lines past a step, and a last line that was cut.

    Args:
        step: the number of completed steps.
        evaluated: False drops the evaluation at that step, too.
    """
    if not metrics.exists():
        return

    # The process may have been killed after an evaluation was logged, and before the checkpoint
    # that knows of it was written.
    kept = []
    for line, values in read_lines(metrics):
        is_evaluation = any(name.startswith("validation/") for name in values)
        first_dropped = step + 1
        if is_evaluation and not evaluated:
            first_dropped = step
        if values["step"] < first_dropped:
            kept.append(line + "\n")
    write_whole(metrics, "".join(kept))
