"""Runs in folders: their evaluations, under the names that people know them by.

A folder may be a run, an experiment's, or one that holds such. Everything is read as it lies there, so that models and
evaluations that this package learns of later have their rows, too.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.config import read_override
from torchrec_priors.errors import UserError
from torchrec_priors.experiment.matrix import flat
from torchrec_priors.training.run_folder import CONFIG, DATA, RunFolder

_DEEPEST = 3  # folders between the one that is named and a run
_CELLS = 1_000_000  # more than an experiment has
_SEED = re.compile(r"-seed\d+$")


@dataclass(frozen=True)
class Result:
    """One evaluation of one run.

    Attributes:
        label: name of the cell, or of the run's folder without its seed, and of the evaluation where it has one.
        place: of the label among all.
        source: the folder that was named.
        config: dotted key -> value, those of the evaluation where it changed some.
        data_sha256: what it was trained on.
    """

    label: str
    place: int
    source: Path
    run: RunFolder
    folder: Path
    split: str
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
        """Of the training; empty where there is none."""
        return _json(self.run.summary) or {}

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, those of a step that was gone back to once."""
        if not self.run.metrics.is_file():
            return []
        lines: dict[tuple[int, bool], dict[str, Any]] = {}
        for text in self.run.metrics.read_text(encoding="utf8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # a line that a kill cut off
                continue
            lines[line["step"], "loss" in line] = line
        return [lines[key] for key in sorted(lines)]


@dataclass
class Found:
    """What the folders hold.

    Attributes:
        left_out: what cannot be shown, each with the reason and the remedy.
    """

    results: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find(places: Iterable[Path]) -> Found:
    """All evaluations of the runs in some folders.

    Raises:
        UserError: one of them is no folder or holds no run, or no run was evaluated.
    """
    found, known = Found(), set[Path]()
    for number, place in enumerate(places):
        if not place.is_dir():
            raise UserError(f"--runs: there is no folder '{place}'")
        runs = sorted(_runs(place))
        if not runs:
            raise UserError(f"--runs: '{place}' holds no run (no {CONFIG} in it or below): train first")
        for run in runs:
            if run.resolve() not in known:
                known.add(run.resolve())
                _read(RunFolder(run), place, number * _CELLS, found)
    if not found.results:
        raise UserError(f"--runs: nothing can be shown: {found.left_out[0]}")
    found.results.sort(key=lambda result: result.place)
    return found


def _runs(place: Path) -> Iterator[Path]:
    for depth in range(_DEEPEST + 1):
        for file in place.glob("*/" * depth + CONFIG):
            if (file.parent / DATA).is_file():
                yield file.parent


def _read(run: RunFolder, source: Path, first: int, found: Found) -> None:
    evaluated = sorted(run.path.glob("eval/*/metrics.json"))
    try:
        config = flat(tomllib.loads((run.path / CONFIG).read_text(encoding="utf8")))
        data_sha256 = json.loads((run.path / DATA).read_text(encoding="utf8"))["content_sha256"]
    except (ValueError, KeyError) as error:
        found.left_out.append(f"{run.path} cannot be read ({error}): train again")
        return
    if config.get("training.fit_all"):
        found.left_out.append(f"{run.path} was trained on all interactions (--fit-all): nothing is left to evaluate on")
        return
    if not evaluated:
        command = f"torchrec-priors evaluate --run {run.path} --split test"
        found.left_out.append(f"{run.path} has not been evaluated: {command}")
        return
    cells = _cells(run.path.parent.parent) if run.path.parent.name == "runs" else {}
    for file in evaluated:
        metrics = _json(file)
        if metrics is None or "split" not in metrics:
            found.left_out.append(f"{file} cannot be read: evaluate again")
            continue
        split = metrics["split"]
        label, place = cells.get((run.path.name, split, str(metrics.get("config_sha256"))), ("", 0))
        if not label:
            name = file.parent.name[len(split) + 1 :]
            label = _SEED.sub("", run.path.name) + (f" {name}" if name else "")
            place = len(cells)
        changes = dict(read_override(override) for override in metrics.get("overrides", []))
        found.results.append(
            Result(label, first + place, source, run, file.parent, split, config | changes, metrics, data_sha256)
        )


def _cells(experiment: Path) -> dict[tuple[str, str, str], tuple[str, int]]:
    """Cell and its place by run, split and configuration, of an experiment's folder."""
    found: dict[tuple[str, str, str], tuple[str, int]] = {}
    for file in sorted(experiment.glob("*/results.parquet")):
        try:
            rows = pq.read_table(file, columns=["run", "split", "config_sha256", "cell"]).to_pylist()
        except (pa.ArrowException, OSError):
            continue
        for number, row in enumerate(rows):
            found.setdefault((row["run"], row["split"], row["config_sha256"]), (row["cell"], number))
    return found


def _json(file: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return values
