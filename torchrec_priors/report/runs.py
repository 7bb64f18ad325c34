"""Finds the runs in folders, with their evaluations and the names that experiments gave them.

A folder may be a run, an experiment, or a folder that contains runs and experiments. A cell is one
configuration of an experiment, with all its seeds. Everything is read from the files, so new kinds
of models and evaluations get their rows without a change here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.config import read_override
from torchrec_priors.errors import UserError, no_such_folder
from torchrec_priors.experiments.matrix import file_name, flat
from torchrec_priors.report.experiments import ExperimentFolder
from torchrec_priors.report.result import Result
from torchrec_priors.retrieval.read_predictions import NOTED
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.config_file import read_values
from torchrec_priors.training.run.folder import CONFIG, DATA, RunFolder
from torchrec_priors.training.run.log_lines import check_beginning

_DEEPEST = 3  # levels of folders below the one that is named
_CELLS = 1_000_000  # more cells than an experiment has

Cell = tuple[str, int]  # a cell's name, and its place among the rows of the page


@dataclass
class Found:
    """The evaluations that the folders contain.

    Attributes:
        left_out: runs and files that cannot be shown, each with the reason and the remedy.
    """

    results: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _RunPath:
    """A path to a run. A run has two paths if an experiment has a link to a run of another one.

    Attributes:
        source: the folder that the user named.
        first: the place of the folder's first label among the rows of the page.
        experiment: the experiment that the path belongs to.
    """

    run: Path
    source: Path
    first: int
    experiment: ExperimentFolder

    def cell(self, metrics: Mapping[str, Any]) -> Cell | None:
        """Returns the cell of an evaluation with these metrics; None if it belongs to no cell."""
        key = (self.run.name, metrics["split"], str(metrics.get("config_sha256")))
        cell = self.experiment.cells.get(key)
        if cell is None:
            return None
        name, number = cell
        return name, self.first + number


def find(folders: Iterable[Path]) -> Found:
    """Finds all evaluations of the runs in some folders.

    Raises:
        UserError: a path is not a folder, a folder contains no run, or no run was evaluated.
    """
    contents = Found()
    trials: dict[Path, set[str]] = {}
    # A run with several paths, because of links or folders that were named twice, is read once.
    for paths_of_run in _reach(folders).values():
        _read_run(paths_of_run, contents, trials)

    for table, names in trials.items():
        plural = "s" if len(names) != 1 else ""
        contents.left_out.append(f"{len(names)} trial{plural} of a search: {table} has them")
    if not contents.results:
        raise UserError(f"--runs: nothing can be shown: {contents.left_out[0]}")

    _leave_out_part(contents)
    contents.results.sort(key=lambda result: result.place)
    return contents


def _reach(folders: Iterable[Path]) -> dict[Path, list[_RunPath]]:
    """Finds all runs: real path of a run -> the paths that lead to it."""
    experiments: dict[Path, ExperimentFolder] = {}
    reached: dict[Path, list[_RunPath]] = {}
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            raise UserError(f"--runs: {no_such_folder(folder)}")
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
            # The labels of different folders get different places.
            path = _RunPath(run, folder, number * _CELLS, experiments[above])
            reached.setdefault(run.resolve(), []).append(path)
    return reached


def _runs(folder: Path) -> Iterator[Path]:
    """Finds the runs' folders in a folder, which may itself be a run."""
    for depth in range(_DEEPEST + 1):
        for file in folder.glob("*/" * depth + CONFIG):
            if (file.parent / DATA).is_file():
                yield file.parent


def _leave_out_part(contents: Found) -> None:
    """Leaves out validations that cover only some of the tested seeds.

    A search links a validation of this kind into an experiment. A table of it would repeat the
    comparison on the test split with fewer seeds.
    """
    seeds: dict[tuple[str, str, str], set[int]] = {}

    def seeds_of(result: Result, split: str) -> set[int]:
        key = (result.data_sha256, file_name(result.label), split)
        return seeds.setdefault(key, set())

    def is_part(result: Result) -> bool:
        return seeds_of(result, result.split) < seeds_of(result, "test")

    for result in contents.results:
        seeds_of(result, result.split).add(result.seed)
    # A label with several seeds is named once.
    labels = dict.fromkeys(result.label for result in contents.results if is_part(result))
    if not labels:
        return

    contents.results = [result for result in contents.results if not is_part(result)]
    named = ", ".join(f"“{label}”" for label in labels)
    contents.left_out.append(
        f"validation of {named}: made for only some of the tested seeds; evaluate the other "
        "seeds on validation, too, or name only those runs"
    )


def _read_run(paths: Sequence[_RunPath], contents: Found, trials: dict[Path, set[str]]) -> None:
    """Reads the evaluations of one run.

    Args:
        paths: the paths to the run.
        contents: the evaluations are added here.
        trials: trials of a search are added here, under the table that lists them.
    """
    # All paths lead to the same run, so the files can be read from any of them.
    metrics, damaged = _read_metrics(paths[0].run)
    path = _naming_path(paths, metrics.values())
    if path is None:
        _note_trial(paths, paths[0].run.name, trials)
        return

    run = RunFolder(path.run)
    try:
        origin = run.origin()
        values = read_values(run.path / CONFIG, signed=origin.signed, run_id=origin.run_id)
        config = with_defaults(flat(values))
    except UserError as error:
        contents.left_out.append(str(error))
        return
    if config["training.fit_all"] or (not metrics and not damaged):
        contents.left_out.append(_without_evaluations(run, config))
        return

    contents.left_out += damaged
    contents.left_out += _missing_files(run)
    for evaluation, values in metrics.items():
        folder = run.path / "eval" / evaluation
        # The key `NOTED` in the metrics says that predictions were written with them.
        if NOTED in values and not (folder / "predictions.parquet").exists():
            contents.left_out.append(f"{folder} has no predictions.parquet: evaluate again")

        name = evaluation[len(values["split"]) + 1 :]
        cell = _cell_of(paths, values)
        if cell is None and _note_trial(paths, name, trials):
            continue
        label, number = cell or _unlisted_cell(path, name)
        # An evaluation may have other settings than the run, such as another fusion.
        changes = dict(read_override(override) for override in values.get("overrides", []))
        result = Result(
            label + _taint(values),
            number,
            path.source,
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


def _without_evaluations(run: RunFolder, config: Mapping[str, Any]) -> str:
    """Returns why a run has no evaluations, with the remedy if there is one."""
    # A run that was trained on all interactions has no targets left.
    if config["training.fit_all"]:
        return (
            f"{run.path} was trained on all interactions (--fit-all): nothing is left to "
            "evaluate on"
        )
    command = f"torchrec-priors evaluate --run {run.path} --split test"
    return f"{run.path} has not been evaluated: {command}"


def _unlisted_cell(path: _RunPath, evaluation: str) -> Cell:
    """Returns the cell of an evaluation that no experiment lists, after those of the experiment.

    Args:
        evaluation: the name of the evaluation; "" if it has none.
    """
    label = path.experiment.name(path.run.name)
    if evaluation:
        label += f" {evaluation}"
    return label, path.first + len(path.experiment.cells)


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the settings that a run does not have, because there were none of them when it began.

    Otherwise its seeds would be shown as another model than seeds that were trained later.

    >>> with_defaults({"model.dim": 8})["embedding.ids"]
    True
    """
    defaults = flat(asdict(RunConfig()))
    added = {
        key: value
        for key, value in defaults.items()
        # The options of a run are the keys of a table, which is empty by default.
        if not any(recorded.startswith(f"{key}.") for recorded in config)
    }
    return added | dict(config)


def _read_metrics(run: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Reads all metrics of a run.

    Returns:
        name of the evaluation's folder -> its metrics, and the errors of files that cannot be read.
    """
    run_id = _run_id(run)
    metrics = {}
    damaged = []
    for file in sorted(run.glob("eval/*/metrics.json")):
        try:
            metrics[file.parent.name] = _metrics(file, run_id)
        except UserError as error:
            damaged.append(str(error))
    return metrics, damaged


def _cell_of(paths: Iterable[_RunPath], metrics: Mapping[str, Any]) -> Cell | None:
    """Returns the cell of an evaluation from the first experiment that lists it; else None."""
    for path in paths:
        cell = path.cell(metrics)
        if cell is not None:
            return cell
    return None


def _naming_path(
    paths: Sequence[_RunPath], metrics: Iterable[Mapping[str, Any]]
) -> _RunPath | None:
    """Returns the path that gives a run its name; None for a trial of a search.

    It is the first path with an experiment that lists one of the evaluations. If there is none, it
    is the first path that is not the path of a trial.
    """
    evaluations = list(metrics)
    for path in paths:
        if any(path.cell(values) for values in evaluations):
            return path
    for path in paths:
        if not path.experiment.trial(path.run.name):
            return path
    return None


def _missing_files(run: RunFolder) -> list[str]:
    """Lists missing files of the training and of evaluations, with the remedies."""
    missing = []
    if not run.summary.exists():
        missing.append(f"the numbers in '{run.summary}', which is missing: train to the end")
    for predictions in sorted(run.path.glob("eval/*/predictions.parquet")):
        if not predictions.with_name("metrics.json").exists():
            missing.append(f"{predictions.parent} has no metrics.json: evaluate again")
    return missing


def _taint(metrics: Mapping[str, Any]) -> str:
    """Returns what is added to a label if the run may have been trained on the targets."""
    if metrics.get("leaked/left_out_users"):
        return " (without users whose targets it was trained on)"
    if metrics.get("leaked/users"):
        return " (trained on targets)"
    if metrics.get("leaked/untold_users"):
        return " (perhaps trained on targets)"
    return ""


def _note_trial(paths: Iterable[_RunPath], name: str, trials: dict[Path, set[str]]) -> bool:
    """Notes a run or an evaluation with this name if it is a trial; returns whether it is one."""
    for path in paths:
        trial = path.experiment.trial(name)
        if trial is not None:
            trials.setdefault(path.experiment.trials, set()).add(trial)
            return True
    return False


def _metrics(file: Path, run_id: str) -> dict[str, Any]:
    """Reads the metrics of an evaluation.

    Raises:
        UserError: the file is not as `evaluate` wrote it.
    """
    values = read_json(file, remedy="evaluate again")
    split = values.get("split")
    if not isinstance(split, str):
        raise UserError(f"'{file}' is not what evaluate writes (it names no split): evaluate again")

    # The folder's name is the split, or the split and the evaluation's name.
    of_this_split = f"{file.parent.name}-".startswith(f"{split}-")
    if not of_this_split or values.get("run_id", run_id) != run_id:
        raise UserError(
            f"'{file}' is not as it was written (it is of another evaluation): evaluate again"
        )
    return values


def _run_id(run: Path) -> str:
    """Returns the run's id; "" if the file that has it cannot be read, which is reported later."""
    try:
        return RunFolder(run).origin().run_id
    except UserError:
        return ""


def _check_training(result: Result, run_id: str) -> None:
    """Raises UserError if the summary is of another run, or the log was changed."""
    summary = result.summary
    if summary.get("run_id", run_id) != run_id:
        raise UserError(
            f"'{result.run.summary}' is not as it was written (it belongs to another run): "
            "train again"
        )
    if isinstance(summary.get("log"), dict):
        check_beginning(result.run.metrics, summary["log"])
    _ = result.log
