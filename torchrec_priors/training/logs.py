"""Writes the logs of a run on rank 0: `metrics.jsonl`, TensorBoard events and a progress bar.

Lines of `metrics.jsonl` look like the following two, which are shortened. Each number is also a
point of TensorBoard's curve of the same name.

    {"step": 90, "loss": ..., "gradient_norm": ..., "rate": ..., "seconds": ..., "crc32": ...}
    {"step": 100, "validation/recall@5": ..., "validation/ndcg@5": ..., "crc32": ...}
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from torchrec_priors.common.files import append_to, write_whole
from torchrec_priors.common.progress import Lines as ProgressLines
from torchrec_priors.common.progress import in_clock_form, print_line, with_progress
from torchrec_priors.common.system_errors import naming
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.callbacks import Step
from torchrec_priors.training.run.log_lines import read_lines, to_line

T = TypeVar("T")


class Logs:
    """Logs numbers for each step, as lines of a file and as TensorBoard's curves.

    When a run resumes, it drops the lines of steps after the checkpoint. These steps are trained
    again, so no step is logged twice.
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
        shown: bool = True,
    ) -> None:
        """
        Args:
            metrics: the file of lines.
            events: TensorBoard's folder.
            steps: the number of steps of the whole run.
            first_step: the number of completed steps. Lines of later steps are dropped.
            evaluated: False if the evaluation after these steps will be repeated, so that its line
                is dropped, too.
            shown: whether the user sees the progress.
        """
        self.leads = ranks.leads
        self._shown = shown and self.leads
        self.bar: Any = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            # None: no bar if the output is not a terminal, where lines take its place.
            disable=None if self._shown else True,
            mininterval=1.0,
        )
        self._lines_of_progress = ProgressLines()

        if self.leads:
            _keep_until(metrics, first_step, evaluated)
            self._lines = Lines(metrics)
            self._folder = events
            # TensorBoard hides earlier events of the steps from `purge_step` on, which are logged
            # again now.
            self._events = SummaryWriter(str(events), purge_step=first_step + 1)

    def add(self, step: int, values: dict[str, Any], prefix: str = "") -> None:
        """Adds one line to the file, and one point to the curve of each value.

        Args:
            step: the number of completed steps.
            values: the values, by name.
            prefix: a text that is put before the names of the values in the logs.
        """
        if not self.leads:
            return

        # The line is written first. So if the disk is full, the curves have no point that the file
        # lacks.
        numbers = {f"{prefix}{name}": value for name, value in values.items()}
        self._lines.add(to_line({"step": step, **numbers}) + "\n")

        with naming(self._folder):
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes buffered events to the disk.

        It is called before each checkpoint, so that events up to the checkpoint cannot be lost.
        """
        if self.leads:
            with naming(self._folder):
                self._events.flush()

    def advance(self, step: Step, best: float) -> None:
        """Moves the progress bar forward by one step, or prints a line if one is due.

        Args:
            step: the step that is done.
            best: the best result of an evaluation so far.
        """
        if not self._shown:
            return
        if self.bar.disable:
            if self._lines_of_progress.is_due():
                print_line(_in_words(step))
            return
        self.bar.update(1)
        self.bar.set_postfix(
            {
                "epoch": f"{step.epoch:.1f}/{step.epochs:.1f}",
                "loss": f"{step.loss:.4f}",
                "best": f"{best:.4f}",
                "tokens/s": f"{step.tokens_per_second:,.0f}",
            },
            refresh=False,
        )

    def evaluating(self, batches: Iterable[T], count: int, doing: str) -> Iterable[T]:
        """Yields the batches of an evaluation, and prints lines while it takes long."""
        # A second bar would disturb the one of the steps.
        if not self._shown or not self.bar.disable:
            return batches
        return with_progress(batches, count, "batch", leads=self.leads, doing=doing)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._shown:
            tqdm.write(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Prints a line above the progress bar, even if the progress is not shown."""
        if self.leads:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.leads:
            self._lines.close()
            self._events.close()


def _in_words(step: Step) -> str:
    """Returns the line of a step."""
    return (
        f"step {step.step:,} of {step.steps:,} (epoch {step.epoch:.1f} of {step.epochs:.1f})  "
        f"loss {step.loss:.4f}  {step.tokens_per_second:,.0f} tokens/s  "
        f"{in_clock_form(step.seconds_left)} left"
    )


class Lines:
    """A file that grows by whole lines. If the disk is full, no part of a line is kept."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = append_to(file)

    def add(self, line: str) -> None:
        """Appends a line.

        Args:
            line: the line, with its line break.
        """
        descriptor = self._file.fileno()
        rest = line.encode("utf8")
        length = os.fstat(descriptor).st_size
        try:
            with naming(self._path):
                # The system may write only a part of the bytes at a time.
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
        except OSError:
            # Otherwise the next line would follow a partial one, which would be reported as damage.
            os.ftruncate(descriptor, length)
            raise

    def close(self) -> None:
        self._file.close()


def _keep_until(metrics: Path, step: int, evaluated: bool) -> None:
    """Drops the lines of later steps, and a last line that was cut off.

    Args:
        step: the number of completed steps.
        evaluated: False to drop the line of the evaluation after this step, too.
    """
    if not metrics.exists():
        return

    # If the process was killed after an evaluation was logged, but before the next checkpoint was
    # written, no checkpoint counts this evaluation, and it is repeated.
    kept = []
    for line, values in read_lines(metrics):
        is_evaluation = any(name.startswith("validation/") for name in values)
        first_dropped = step + 1
        if is_evaluation and not evaluated:
            first_dropped = step
        if values["step"] < first_dropped:
            kept.append(line + "\n")
    write_whole(metrics, "".join(kept))
