"""Runs in folders: their evaluations, under the names that users know them by.

A folder may be a run, an experiment's, or one that contains such. Everything is read from the
files, so models and evaluations that this package learns of later have their rows, too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.config import read_override
from torchrec_priors.errors import UserError
from torchrec_priors.experiment.matrix import file_name, flat
from torchrec_priors.report.experiments import ExperimentFolder
from torchrec_priors.report.result import Result
from torchrec_priors.retrieval.read_predictions import NOTED
from torchrec_priors.training.run.config_file import read_values
from torchrec_priors.training.run.folder import CONFIG, DATA, RunFolder
from torchrec_priors.training.run.log_lines import check_beginning

_DEEPEST = 3  # folders between the one that is named and a run
_CELLS = 1_000_000  # more than an experiment has

Cell = tuple[str, int]  # a cell's name, and its place among all


@dataclass
class Found:
    """What the folders contain.

    Attributes:
        left_out: what cannot be shown, each with the reason and the remedy.
    """

    results: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where a run is reached. The same run is in two experiments if one has a link to the other's.

    Attributes:
        source: the folder that was named.
        first: place of its first label.
    """

    run: Path
    source: Path
    first: int
    experiment: ExperimentFolder

    def cell(self, metrics: Mapping[str, Any]) -> Cell | None:
        """The cell of an evaluation with these metrics; None if the experiment does not know it."""
        key = (self.run.name, metrics["split"], str(metrics.get("config_sha256")))
        cell = self.experiment.cells.get(key)
        if cell is None:
            return None
        name, number = cell
        return name, self.first + number


def find(places: Iterable[Path]) -> Found:
    """All evaluations of the runs in some folders.

    Raises:
        UserError: one of them is no folder or contains no run, or no run was evaluated.
    """
    contents = Found()
    trials: dict[Path, set[str]] = {}
    # A run that is reached twice, by links or by folders named twice, is read once.
    for places_of_run in _reach(places).values():
        _read_run(places_of_run, contents, trials)

    for table, names in trials.items():
        plural = "s" if len(names) != 1 else ""
        contents.left_out.append(f"{len(names)} trial{plural} of a search: {table} has them")
    if not contents.results:
        raise UserError(f"--runs: nothing can be shown: {contents.left_out[0]}")

    _leave_out_part(contents)
    contents.results.sort(key=lambda result: result.place)
    return contents


def _reach(places: Iterable[Path]) -> dict[Path, list[_Place]]:
    """Where each run is reached, by its real path."""
    experiments: dict[Path, ExperimentFolder] = {}
    reached: dict[Path, list[_Place]] = {}
    for number, folder in enumerate(places):
        if not folder.is_dir():
            raise UserError(f"--runs: there is no folder '{folder}'")
        runs = sorted(_runs(folder))
        if not runs:
            raise UserError(
                f"--runs: '{folder}' holds no run (no {CONFIG} in it or below): train first"
            )

        for run in runs:
            above = run
            if run.parent.name == "runs":
                above = run.parent.parent
            if above not in experiments:
                experiments[above] = ExperimentFolder.of(above)
            # Places of labels of different folders must not overlap.
            place = _Place(run, folder, number * _CELLS, experiments[above])
            reached.setdefault(run.resolve(), []).append(place)
    return reached


def _runs(folder: Path) -> Iterator[Path]:
    for depth in range(_DEEPEST + 1):
        for file in folder.glob("*/" * depth + CONFIG):
            if (file.parent / DATA).is_file():
                yield file.parent


def _leave_out_part(contents: Found) -> None:
    """Leaves out what was validated on only some of the seeds that it was tested on.

    Such is the validation that a search links into an experiment: a table of it would be a second
        opinion of less
    weight.
    """
    seeds: dict[tuple[str, str, str], set[int]] = {}

    def seeds_of(result: Result, split: str) -> set[int]:
        key = (result.data_sha256, file_name(result.label), split)
        return seeds.setdefault(key, set())

    def is_part(result: Result) -> bool:
        return seeds_of(result, result.split) < seeds_of(result, "test")

    for result in contents.results:
        seeds_of(result, result.split).add(result.seed)
    # Each label is named once, whatever the number of its seeds.
    labels = dict.fromkeys(result.label for result in contents.results if is_part(result))
    if not labels:
        return

    contents.results = [result for result in contents.results if not is_part(result)]
    named = ", ".join(f"“{label}”" for label in labels)
    contents.left_out.append(
        f"validation of {named}: made for some of the tested seeds alone; evaluate the others on "
        "validation, too, or name only those runs"
    )


def _read_run(places: Sequence[_Place], contents: Found, trials: dict[Path, set[str]]) -> None:
    """Reads the evaluations of one run.

    Args:
        places: where it is reached.
        trials: gets those of a search, by the table that has them.
    """
    # All places are the same run, so any of them has its files.
    metrics, damaged = _read_metrics(places[0].run)
    place = _place_of(places, metrics.values())
    if place is None:
        _note_trial(places, places[0].run.name, trials)
        return

    run = RunFolder(place.run)
    try:
        origin = run.origin()
        config = flat(read_values(run.path / CONFIG, signed=origin.signed, run_id=origin.run_id))
    except UserError as error:
        contents.left_out.append(str(error))
        return
    # Such a run has no targets of its own.
    if config.get("training.fit_all"):
        contents.left_out.append(
            f"{run.path} was trained on all interactions (--fit-all): nothing is left to "
            "evaluate on"
        )
        return
    if not metrics and not damaged:
        command = f"torchrec-priors evaluate --run {run.path} --split test"
        contents.left_out.append(f"{run.path} has not been evaluated: {command}")
        return

    contents.left_out += damaged
    contents.left_out += _missing_files(run)
    for evaluation, values in metrics.items():
        folder = run.path / "eval" / evaluation
        # `NOTED` says that predictions were written with these metrics.
        if NOTED in values and not (folder / "predictions.parquet").exists():
            contents.left_out.append(f"{folder} has no predictions.parquet: evaluate again")

        name = evaluation[len(values["split"]) + 1 :]
        cell = _cell_of(places, values)
        if cell is None:
            if _note_trial(places, name, trials):
                continue
            label = place.experiment.name(run.path.name)
            if name:
                label += f" {name}"
            # After all cells of the experiment.
            cell = (label, place.first + len(place.experiment.cells))

        label, number = cell
        # An evaluation may have other settings than the run, such as another fusion.
        changes = dict(read_override(override) for override in values.get("overrides", []))
        result = Result(
            label + _taint(values),
            number,
            place.source,
            run,
            folder,
            values["split"],
            config | changes,
            values,
            origin.content_sha256,
        )
        try:
            _check_training(result, origin.run_id)
        except UserError as error:
            contents.left_out.append(str(error))
            return
        contents.results.append(result)


def _read_metrics(run: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Metrics by name of the evaluation's folder, and errors of those that cannot be read."""
    run_id = _run_id(run)
    metrics = {}
    damaged = []
    for file in sorted(run.glob("eval/*/metrics.json")):
        try:
            metrics[file.parent.name] = _metrics(file, run_id)
        except UserError as error:
            damaged.append(str(error))
    return metrics, damaged


def _cell_of(places: Iterable[_Place], metrics: Mapping[str, Any]) -> Cell | None:
    """The cell of an evaluation, of the first experiment that knows it."""
    for place in places:
        cell = place.cell(metrics)
        if cell is not None:
            return cell
    return None


def _place_of(places: Sequence[_Place], metrics: Iterable[Mapping[str, Any]]) -> _Place | None:
    """The place that gives a run its name; None for a trial of a search.

    It is the first place whose experiment has a cell for an evaluation, else the first that is not
    a trial's.
    """
    evaluations = list(metrics)
    for place in places:
        if any(place.cell(values) for values in evaluations):
            return place
    for place in places:
        if not place.experiment.trial(place.run.name):
            return place
    return None


def _missing_files(run: RunFolder) -> list[str]:
    """Files of the training and of evaluations that are missing, with the remedies."""
    missing = []
    if not run.summary.exists():
        missing.append(f"what is in '{run.summary}', which is missing: train to the end")
    for predictions in sorted(run.path.glob("eval/*/predictions.parquet")):
        if not predictions.with_name("metrics.json").exists():
            missing.append(f"{predictions.parent} has no metrics.json: evaluate again")
    return missing


def _taint(metrics: Mapping[str, Any]) -> str:
    """What a label says if ancestors of the run may have been trained on the targets."""
    if metrics.get("leaked/left_out_users"):
        return " (without users whose targets it was trained on)"
    if metrics.get("leaked/users"):
        return " (trained on targets)"
    if metrics.get("leaked/untold_users"):
        return " (perhaps trained on targets)"
    return ""


def _note_trial(places: Iterable[_Place], name: str, trials: dict[Path, set[str]]) -> bool:
    """Notes a run or an evaluation of this name if it is a trial; returns whether it is one."""
    for place in places:
        trial = place.experiment.trial(name)
        if trial is not None:
            trials.setdefault(place.experiment.trials, set()).add(trial)
            return True
    return False


def _metrics(file: Path, run_id: str) -> dict[str, Any]:
    """The metrics of an evaluation.

    Raises:
        UserError: they are not what was written.
    """
    values = read_json(file, remedy="evaluate again")
    split = values.get("split")
    if not isinstance(split, str):
        raise UserError(f"'{file}' is not what evaluate writes (it names no split): evaluate again")

    # A folder is called after its split, or after its split and the evaluation's name.
    of_this_split = f"{file.parent.name}-".startswith(f"{split}-")
    if not of_this_split or values.get("run_id", run_id) != run_id:
        raise UserError(
            f"'{file}' is not as it was written (it is of another evaluation): evaluate again"
        )
    return values


def _run_id(run: Path) -> str:
    """The run's id; "" if its origin cannot be read, which is reported later."""
    try:
        return RunFolder(run).origin().run_id
    except UserError:
        return ""


def _check_training(result: Result, run_id: str) -> None:
    """Raises UserError if the summary is of another run, or the log is not what was written."""
    summary = result.summary
    if summary.get("run_id", run_id) != run_id:
        raise UserError(
            f"'{result.run.summary}' is not as it was written (it is of another run): train again"
        )
    if isinstance(summary.get("log"), dict):
        check_beginning(result.run.metrics, summary["log"])
    _ = result.log
