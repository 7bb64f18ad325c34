"""What a run says: `metrics.jsonl`, TensorBoard events, a progress bar. Rank 0 alone writes."""

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
    """Lines of numbers by step. After a resume, lines past the checkpoint are dropped, so that no step stands twice."""

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
            first_step: steps done; what was logged after them is done again.
            evaluated: whether the evaluation at that step, if any, is not.
        """
        self.leads = ranks.leads
        self.bar: Any = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            disable=None if self.leads else True,
            mininterval=1.0,
        )
        if self.leads:
            _keep_until(metrics, first_step, evaluated)
            self._lines = Lines(metrics)
            self._folder = events
            self._events = SummaryWriter(str(events), purge_step=first_step + 1)

    def add(self, step: int, values: dict[str, Any], prefix: str = "") -> None:
        """One line, and one point of every curve; `step` counts steps done."""
        if not self.leads:
            return
        numbers = {f"{prefix}{name}": value for name, value in values.items()}
        self._lines.add(to_line({"step": step, **numbers}) + "\n")
        with naming(self._folder):
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Call it before a checkpoint: nothing up to its step is then lost with the process."""
        if self.leads:
            with naming(self._folder):
                self._events.flush()

    def advance(self, **shown: str) -> None:
        self.bar.update(1)
        if shown:
            self.bar.set_postfix(shown, refresh=False)

    def say(self, text: str) -> None:
        if self.leads:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.leads:
            self._lines.close()
            self._events.close()


class Lines:
    """A file that grows by whole lines: where there is no room for one, none of it stays."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = append_to(file)

    def add(self, line: str) -> None:
        """
        Args:
            line: with its end.
        """
        number = self._file.fileno()
        rest = line.encode("utf8")
        length = os.fstat(number).st_size
        try:
            with naming(self._path):
                while rest:
                    rest = rest[os.write(number, rest) :]
        except OSError:
            os.ftruncate(number, length)
            raise

    def close(self) -> None:
        self._file.close()


def _keep_until(metrics: Path, step: int, evaluated: bool) -> None:
    """Drops lines past a step, its evaluation where that was not `evaluated`, and a last line that was cut."""
    if not metrics.exists():
        return
    kept = []
    for line, values in read_lines(metrics):
        again = not evaluated and any(name.startswith("validation/") for name in values)
        if values["step"] < step + (not again):
            kept.append(line + "\n")
    write_whole(metrics, "".join(kept))
