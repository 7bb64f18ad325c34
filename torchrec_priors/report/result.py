"""One evaluation of one run, read from its files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.data.histories import Split
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.log_lines import read_lines


@dataclass(frozen=True)
class Result:
    """One evaluation of one run.

    Attributes:
        label: the name of the cell, or of the run's folder without the seed; the name of the
            evaluation follows if there is one.
        place: the label's place among the rows of the page.
        source: the folder that the user named.
        folder: the folder of the evaluation.
        config: dotted key -> value. The evaluation may have changed values of the run.
        data_sha256: the hash of the data that the run was trained on.
    """

    label: str
    place: int
    source: Path
    run: RunFolder
    folder: Path
    split: Split
    config: dict[str, Any]
    metrics: dict[str, Any]
    data_sha256: str

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.parquet"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The summary of the training; empty if there is none."""
        if not self.run.summary.exists():
            return {}
        return read_json(self.run.summary, remedy="train again")

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, sorted by step.

        If a step was trained twice, because the run was killed, the later lines count.
        """
        # A step may have two lines, one of the training and one of an evaluation.
        lines = {(line["step"], "loss" in line): line for line in self._logged}
        return [lines[key] for key in sorted(lines)]

    @property
    def training_seconds(self) -> float | None:
        """The training time of all starts, each up to its last line; None without a log."""
        starts: list[float] = []  # the last time of each start, which counts from 0
        before = float("inf")
        for line in self._logged:
            if "seconds" not in line:
                continue
            now = line["seconds"]
            if now < before:
                starts.append(now)
            starts[-1] = now
            before = now
        return sum(starts) if starts else None

    @cached_property
    def _logged(self) -> list[dict[str, Any]]:
        """All lines of the log, in the order in which they were written."""
        return [values for _, values in read_lines(self.run.metrics)]
