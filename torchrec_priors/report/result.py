"""One evaluation of one run, as its files say it."""

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
        label: name of the cell, or of the run's folder without its seed, then of the evaluation if
            it has one.
        place: of the label among all.
        source: the folder that was named.
        config: dotted key -> value, those of the evaluation if it changed some.
        data_sha256: of the data that it was trained on.
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
        return int(self.config.get("seed", 0))

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.parquet"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The summary of the training; empty without one."""
        if not self.run.summary.exists():
            return {}
        return read_json(self.run.summary, remedy="train again")

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` by step; of a step that was trained twice the later ones."""
        # A step may have two lines: one of the training and one of an evaluation.
        lines = {(line["step"], "loss" in line): line for line in self._logged}
        return [lines[key] for key in sorted(lines)]

    @property
    def training_seconds(self) -> float | None:
        """The time until the last line of the log, over all starts; each counts from 0."""
        starts: list[float] = []  # the last time of each
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
        """All lines, in the order in which they were written."""
        return [values for _, values in read_lines(self.run.metrics)]
