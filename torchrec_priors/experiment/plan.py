"""What is trained and evaluated for the cells of an experiment.

Cells that differ in evaluation only share a run.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchrec_priors.config import RunConfig, with_changes, write_override
from torchrec_priors.errors import UserError
from torchrec_priors.experiment.matrix import EVALUATION, Cell, file_name, flat


@dataclass(frozen=True)
class Evaluation:
    """A cell with a seed.

    Attributes:
        config: its whole configuration.
        name: the value of `evaluate --name`; None for the evaluation of the run's own settings.
        overrides: the arguments of `evaluate`, if its settings differ from the run's.
    """

    cell: str
    seed: int
    config: RunConfig
    name: str | None
    overrides: list[str]


@dataclass(frozen=True)
class PlannedRun:
    """One training and its evaluations.

    Attributes:
        name: of its folder.
        config: of the training: that of the first cell that shares it.
        overrides: the arguments of `train` in addition to the base configuration.
    """

    name: str
    config: RunConfig
    overrides: list[str]
    evaluations: list[Evaluation] = field(default_factory=list)

    def only(self, cells: Iterable[str]) -> "PlannedRun":
        """The same run with the evaluations of these cells only."""
        names = set(cells)
        kept = [evaluation for evaluation in self.evaluations if evaluation.cell in names]
        return replace(self, evaluations=kept)


def plan(
    cells: Iterable[Cell], seeds: Iterable[int], base: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[PlannedRun]:
    """Plans the runs, all cells of a seed before those of the next seed.

    Args:
        base: values of the base configuration, as TOML gives them.
        budget: changes for all cells, by dotted key.

    Raises:
        UserError: a cell's configuration is invalid or leaves nothing to evaluate on, or two
            trainings have one name.
    """
    cells = list(cells)
    runs: dict[str, PlannedRun] = {}  # by what decides the training
    named: dict[str, str] = {}  # cell by name of its run, which file systems may not tell by case
    for seed in seeds:
        for cell in cells:
            changes = {**budget, **cell.changes, "seed": seed}
            config = _config(cell, base, changes)
            training = _training_of(config)
            if training not in runs:
                name = f"{file_name(cell.trained_as)}-seed{seed}"
                # Such as a listed cell that is named like the training of a product.
                if name.casefold() in named:
                    raise UserError(
                        f"cells '{named[name.casefold()]}' and '{cell.name}' are trained "
                        f"differently and would share the folder '{name}': rename one"
                    )
                named[name.casefold()] = cell.name
                overrides = [write_override(key, value) for key, value in changes.items()]
                runs[training] = PlannedRun(name, config, overrides)

            run = runs[training]
            run.evaluations.append(_evaluation(cell, seed, config, run))
    return list(runs.values())


def run_folder(out: Path, run: PlannedRun) -> Path:
    """The folder of a run in an experiment's folder."""
    return out / "runs" / run.name


def _config(cell: Cell, base: Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    try:
        config = with_changes(base, changes.items())
    except UserError as error:
        raise UserError(f"cell '{cell.name}': {error}") from error
    if config.training.fit_all:
        raise UserError(f"cell '{cell.name}': training.fit_all leaves nothing to evaluate on")
    return config


def _training_of(config: RunConfig) -> str:
    """All of a configuration but its evaluation, as text."""
    sections = asdict(config)
    del sections[EVALUATION.removesuffix(".")]
    return json.dumps(sections)


def _evaluation(cell: Cell, seed: int, config: RunConfig, run: PlannedRun) -> Evaluation:
    # The first cell of a run is evaluated with the run's own settings and needs no name.
    wanted = _evaluation_settings(config)
    trained = _evaluation_settings(run.config)
    overrides = [
        write_override(key, value) for key, value in wanted.items() if trained.get(key) != value
    ]
    name = file_name(cell.name) if overrides else None
    return Evaluation(cell.name, seed, config, name, overrides)


def _evaluation_settings(config: RunConfig) -> dict[str, Any]:
    """By dotted key."""
    return flat({"evaluation": asdict(config.evaluation)})
