"""What a search chose, as an experiment that can be run; its trained runs are not trained again."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from torchrec_priors.experiment.file import ExperimentFile
from torchrec_priors.experiment.finished import summary_of
from torchrec_priors.experiment.matrix import Cell
from torchrec_priors.experiment.plan import PlannedRun, run_folder
from torchrec_priors.training.run.folder import RunFolder

# Keys that the experiment of the best has from that of the search.
_AS_THEY_ARE = ("seeds", "split", "reference", "at_once", "metrics", "budget")


def best_cells(cells: list[Cell], chosen: dict[str, dict[str, Any]]) -> list[Cell]:
    """The cells with the values chosen for them, by name and dotted key."""
    return [
        Cell(cell.name, {**cell.changes, **chosen.get(cell.name, {})}, cell.name) for cell in cells
    ]


def best_toml(
    file: ExperimentFile, cells: list[Cell], folder: Path, data: str, command: str
) -> str:
    """An experiment of the same budget, seeds, split and reference whose cells are listed.

    Args:
        cells: with the values chosen.
        folder: where the text will be.
        data: prepared data set.
        command: the command that made it.
    """
    kept = asdict(file)
    # A relative path: the folders may be moved together.
    config = os.path.relpath(Path(file.config).absolute(), folder.absolute())
    values: dict[str, Any] = {"name": f"{file.name}-best", "config": config, "data": data}
    values |= {key: kept[key] for key in _AS_THEY_ARE}
    values["cells"] = {cell.name: _nested(cell.changes) for cell in cells}

    head = f"# {file.name}, every cell with the values chosen on validation by:\n#   {command}\n"
    return head + tomli_w.dumps(values)


def final_folder(out: Path) -> Path:
    """The folder of the experiment of the best, given that of the search."""
    return out.with_name(f"{out.name}-best")


def hand_over(out: Path, tried: list[PlannedRun], final: list[PlannedRun]) -> int:
    """Links runs of the search into the folder of the final experiment.

    They are linked if their configurations are the same.

    Returns:
        the number of the final runs that are trained already.
    """
    # By configuration: the final experiment gives its runs other names.
    trained = {run.config.sha256(): run_folder(out, run) for run in tried if _is_trained(out, run)}
    for run in final:
        link = run_folder(final_folder(out), run)
        # A run that was trained there is kept; a link is renewed, as its target may be another.
        if link.is_symlink():  # of an earlier search
            link.unlink()
        target = trained.get(run.config.sha256())
        if target is not None and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    return sum(_is_trained(final_folder(out), run) for run in final)


def _is_trained(out: Path, run: PlannedRun) -> bool:
    return summary_of(RunFolder(run_folder(out, run)), run) is not None


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes by dotted key as nested sections.

    >>> _nested({"model.dim": 8, "encoder.options.width": 3})
    {'model': {'dim': 8}, 'encoder': {'options': {'width': 3}}}
    """
    nested: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = key.split(".")
        innermost = nested
        for section in sections:
            innermost = innermost.setdefault(section, {})
        innermost[last] = value
    return nested
