"""Runs in folders: their evaluations, under the names that people know them by.

A folder may be a run, an experiment's, or one that holds such. Everything is read as it lies there, so that models and
evaluations that this package learns of later have their rows, too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.config import read_override
from torchrec_priors.errors import UserError
from torchrec_priors.experiment.matrix import file_name, flat
from torchrec_priors.report.experiments import ExperimentFolder
from torchrec_priors.retrieval.read_predictions import NOTED
from torchrec_priors.training.run.config_file import read_values
from torchrec_priors.training.run.folder import CONFIG, DATA, RunFolder
from torchrec_priors.training.run.log_lines import check_beginning, read_lines

_DEEPEST = 3  # folders between the one that is named and a run
_CELLS = 1_000_000  # more than an experiment has


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
        return (
            read_json(self.run.summary, remedy="train again") if self.run.summary.exists() else {}
        )

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, those of a step that was gone back to once."""
        lines = {(line["step"], "loss" in line): line for line in self._logged}
        return [lines[key] for key in sorted(lines)]

    @property
    def training_seconds(self) -> float | None:
        """Until the last line of the log, over all starts: each counts its seconds from 0."""
        starts: list[float] = []
        before = float("inf")
        for now in (line["seconds"] for line in self._logged if "seconds" in line):
            if now < before:
                starts.append(now)
            starts[-1] = before = now
        return sum(starts) if starts else None

    @cached_property
    def _logged(self) -> list[dict[str, Any]]:
        """All lines, in the order in which they were written."""
        return [values for _, values in read_lines(self.run.metrics)]


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
    found = Found()
    experiments = dict[Path, ExperimentFolder]()
    reached: dict[Path, list[_Place]] = {}
    for number, place in enumerate(places):
        if not place.is_dir():
            raise UserError(f"--runs: there is no folder '{place}'")
        runs = sorted(_runs(place))
        if not runs:
            raise UserError(
                f"--runs: '{place}' holds no run (no {CONFIG} in it or below): train first"
            )
        for run in runs:
            above = run.parent.parent if run.parent.name == "runs" else run
            if above not in experiments:
                experiments[above] = ExperimentFolder.of(above)
            reached.setdefault(run.resolve(), []).append(
                _Place(run, place, number * _CELLS, experiments[above])
            )
    trials: dict[Path, set[str]] = {}
    for ways in reached.values():
        _read(ways, found, trials)
    for table, tried in trials.items():
        found.left_out.append(
            f"{len(tried)} trial{'s' * (len(tried) != 1)} of a search: {table} has them"
        )
    if not found.results:
        raise UserError(f"--runs: nothing can be shown: {found.left_out[0]}")
    _leave_out_part(found)
    found.results.sort(key=lambda result: result.place)
    return found


def _leave_out_part(found: Found) -> None:
    """Leaves out what was validated on only some of the seeds that it was tested on, such as the one that a search
    handed over: a table of those would be a second opinion of less weight."""
    seeds: dict[tuple[str, str, str], set[int]] = {}

    def of(result: Result, split: str) -> set[int]:
        return seeds.setdefault((result.data_sha256, file_name(result.label), split), set())

    for result in found.results:
        of(result, result.split).add(result.seed)

    def is_part(result: Result) -> bool:
        return of(result, result.split) < of(result, "test")

    labels = dict.fromkeys(result.label for result in found.results if is_part(result))
    if labels:
        found.results = [result for result in found.results if not is_part(result)]
        found.left_out.append(
            f"validation of {', '.join(f'“{label}”' for label in labels)}: made for some of the tested seeds alone; "
            "evaluate the others on validation, too, or name only those runs"
        )


@dataclass(frozen=True)
class _Place:
    """Where a run is reached; the same run is in two experiments where one has a link to the other's.

    Attributes:
        source: the folder that was named.
        first: place of its first label.
    """

    run: Path
    source: Path
    first: int
    experiment: ExperimentFolder

    def cell(self, split: str, config_sha256: str) -> tuple[str, int] | None:
        """Whose evaluation it is, and its place."""
        found = self.experiment.cells.get((self.run.name, split, config_sha256))
        return found and (found[0], self.first + found[1])


def _runs(place: Path) -> Iterator[Path]:
    for depth in range(_DEEPEST + 1):
        for file in place.glob("*/" * depth + CONFIG):
            if (file.parent / DATA).is_file():
                yield file.parent


def _read(ways: list[_Place], found: Found, trials: dict[Path, set[str]]) -> None:
    """One run; `trials` gets those of a search, by the table that has them."""
    evaluated = sorted(ways[0].run.glob("eval/*/metrics.json"))
    run_id = _run_id(ways[0].run)
    metrics = {}
    damaged = list[str]()
    for file in evaluated:
        try:
            metrics[file.parent.name] = _metrics(file, run_id)
        except UserError as error:
            damaged.append(str(error))

    cells = {
        name: cell
        for name, values in metrics.items()
        for way in reversed(ways)  # the first that knows it counts
        if (cell := way.cell(values["split"], str(values.get("config_sha256"))))
    }
    known = (
        way
        for way in ways
        if any(way.cell(m["split"], str(m.get("config_sha256"))) for m in metrics.values())
    )
    way = next(known, None) or next(
        (way for way in ways if not way.experiment.trial(way.run.name)), None
    )
    if way is None:
        _note_trial(ways, ways[0].run.name, trials)
        return

    run = RunFolder(way.run)
    try:
        origin = run.origin()
        config = flat(read_values(run.path / CONFIG, signed=origin.signed, run_id=origin.run_id))
    except UserError as error:
        found.left_out.append(str(error))
        return
    if config.get("training.fit_all"):
        found.left_out.append(
            f"{run.path} was trained on all interactions (--fit-all): nothing is left to evaluate on"
        )
        return
    if not evaluated:
        command = f"torchrec-priors evaluate --run {run.path} --split test"
        found.left_out.append(f"{run.path} has not been evaluated: {command}")
        return

    found.left_out += damaged
    if not run.summary.exists():
        found.left_out.append(f"what is in '{run.summary}', which is missing: train to the end")
    for written in sorted(run.path.glob("eval/*/predictions.parquet")):
        if not written.with_name("metrics.json").exists():
            found.left_out.append(f"{written.parent} has no metrics.json: evaluate again")

    for evaluation, values in metrics.items():
        folder = run.path / "eval" / evaluation
        if NOTED in values and not (folder / "predictions.parquet").exists():
            found.left_out.append(f"{folder} has no predictions.parquet: evaluate again")
        split = values["split"]
        name = folder.name[len(split) + 1 :]
        if folder.name not in cells and _note_trial(ways, name, trials):
            continue

        own = way.experiment.name(run.path.name) + (f" {name}" if name else "")
        label, place = cells.get(folder.name, (own, way.first + len(way.experiment.cells)))
        label += _taint(values)
        changes = dict(read_override(override) for override in values.get("overrides", []))
        result = Result(
            label,
            place,
            way.source,
            run,
            folder,
            split,
            config | changes,
            values,
            origin.content_sha256,
        )
        try:
            _check_summary(result, origin.run_id)
            _ = result.log
        except UserError as error:
            found.left_out.append(str(error))
            return
        found.results.append(result)


def _taint(metrics: dict[str, Any]) -> str:
    """What a label says of an evaluation on what ancestors of the run may have been trained on."""
    if metrics.get("leaked/left_out_users"):
        return " (without users whose targets it was trained on)"
    if metrics.get("leaked/users"):
        return " (trained on targets)"
    return " (perhaps trained on targets)" if metrics.get("leaked/untold_users") else ""


def _note_trial(ways: list[_Place], name: str, trials: dict[Path, set[str]]) -> bool:
    """Whether a run or an evaluation of this name is a trial."""
    for way in ways:
        trial = way.experiment.trial(name)
        if trial is not None:
            trials.setdefault(way.experiment.trials, set()).add(trial)
            return True
    return False


def _metrics(file: Path, run_id: str) -> dict[str, Any]:
    """Of an evaluation.

    Raises:
        UserError: they are not what was written.
    """
    values = read_json(file, remedy="evaluate again")
    if not isinstance(values.get("split"), str):
        raise UserError(f"'{file}' is not what evaluate writes (it names no split): evaluate again")
    if (
        not f"{file.parent.name}-".startswith(f"{values['split']}-")
        or values.get("run_id", run_id) != run_id
    ):
        raise UserError(
            f"'{file}' is not as it was written (it is of another evaluation): evaluate again"
        )
    return values


def _run_id(run: Path) -> str:
    """Empty where it cannot be told, which is said later."""
    try:
        return RunFolder(run).origin().run_id
    except UserError:
        return ""


def _check_summary(result: Result, run_id: str) -> None:
    """Raises UserError where what a training wrote at its end is of another run, or its log is not what it was."""
    summary = result.summary
    if summary.get("run_id", run_id) != run_id:
        raise UserError(
            f"'{result.run.summary}' is not as it was written (it is of another run): train again"
        )
    if isinstance(summary.get("log"), dict):
        check_beginning(result.run.metrics, summary["log"])
