"""Writes an experiment with the values that a search chose, and links the runs that it trained."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from torchrec_priors.experiments.file import ExperimentFile
from torchrec_priors.experiments.finished import summary_of
from torchrec_priors.experiments.matrix import Cell
from torchrec_priors.experiments.plan import PlannedRun, run_folder
from torchrec_priors.training.run.folder import RunFolder

# Keys that the final experiment copies from the experiment of the search.
_COPIED = ("seeds", "split", "reference", "at_once", "metrics", "budget")


def best_cells(cells: list[Cell], chosen: dict[str, dict[str, Any]]) -> list[Cell]:
    """Returns the cells with their chosen values.

    Args:
        chosen: name of a cell -> dotted key -> value.
    """
    return [
        Cell(cell.name, {**cell.changes, **chosen.get(cell.name, {})}, cell.name) for cell in cells
    ]


def best_toml(
    file: ExperimentFile, cells: list[Cell], folder: Path, data: str, command: str
) -> str:
    """Writes the final experiment, with the same budget, seeds, split and reference.

    Args:
        file: the experiment of the search.
        cells: the cells with their chosen values.
        folder: the folder that the text will be written to.
        data: the prepared data set.
        command: the command that makes the text.
    """
    settings = asdict(file)
    # The path is relative, so the folders can be moved together.
    config = os.path.relpath(Path(file.config).absolute(), folder.absolute())
    values: dict[str, Any] = {"name": f"{file.name}-best", "config": config, "data": data}
    values |= {key: settings[key] for key in _COPIED}
    values["cells"] = {cell.name: nested(cell.changes) for cell in cells}

    head = f"# {file.name}, every cell with the values chosen on validation by:\n#   {command}\n"
    return head + tomli_w.dumps(values)


def final_folder(out: Path) -> Path:
    """Returns the folder of the final experiment, given the folder of the search."""
    return out.with_name(f"{out.name}-best")


def hand_over(out: Path, tried: list[PlannedRun], final: list[PlannedRun]) -> int:
    """Links runs of the search into the folder of the final experiment.

    A run is linked if its configuration is that of a final run.

    Args:
        out: the folder of the search.
        tried: the runs of the search.
        final: the runs of the final experiment.

    Returns:
        the number of final runs that are already trained.
    """
    # Runs are matched by configuration, because the final experiment gives them other names.
    trained = {run.config.sha256(): run_folder(out, run) for run in tried if _is_trained(out, run)}

    for run in final:
        link = run_folder(final_folder(out), run)
        # A run that was trained in this folder is kept. A link of an earlier search is replaced,
        # because its target may be another run.
        if link.is_symlink():
            link.unlink()
        target = trained.get(run.config.sha256())
        if target is not None and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    return sum(_is_trained(final_folder(out), run) for run in final)


def _is_trained(out: Path, run: PlannedRun) -> bool:
    """Whether the training of a run is finished."""
    return summary_of(RunFolder(run_folder(out, run)), run) is not None


def nested(changes: dict[str, Any]) -> dict[str, Any]:
    """Turns changes by dotted key into nested sections.

    >>> nested({"model.dim": 8, "encoder.options.width": 3})
    {'model': {'dim': 8}, 'encoder': {'options': {'width': 3}}}
    """
    values: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = key.split(".")
        innermost = values
        for section in sections:
            innermost = innermost.setdefault(section, {})
        innermost[last] = value
    return values
