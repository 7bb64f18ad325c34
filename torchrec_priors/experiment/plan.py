"""What is trained and evaluated for the cells of an experiment: cells that differ in evaluation alone share a run."""

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
        name: what `evaluate --name` is given; None for the evaluation of the run's own settings.
        overrides: what `evaluate` is given, as its settings differ from the run's.
    """

    cell: str
    seed: int
    config: RunConfig
    name: str | None
    overrides: list[str]


@dataclass(frozen=True)
class PlannedRun:
    """One training and the evaluations of it.

    Attributes:
        name: of its folder.
        config: of the training: that of the first cell that shares it.
        overrides: what `train` is given beside the base configuration.
    """

    name: str
    config: RunConfig
    overrides: list[str]
    evaluations: list[Evaluation] = field(default_factory=list)

    def only(self, cells: Iterable[str]) -> "PlannedRun":
        """The same with the evaluations of these cells alone."""
        return replace(
            self, evaluations=[each for each in self.evaluations if each.cell in set(cells)]
        )


def plan(
    cells: Iterable[Cell], seeds: Iterable[int], base: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[PlannedRun]:
    """Runs, all cells of a seed before the next seed's.

    Args:
        base: values of the base configuration, as TOML gives them.
        budget: changes for all cells, by dotted key.

    Raises:
        UserError: a cell's configuration is none, leaves nothing to evaluate on, or two trainings have one name.
    """
    cells = list(cells)
    runs: dict[str, PlannedRun] = {}
    names: dict[str, str] = {}
    for seed in seeds:
        for cell in cells:
            changes = {**budget, **cell.changes, "seed": seed}
            config = _config(cell, base, changes)
            training = json.dumps(
                {name: part for name, part in asdict(config).items() if name != EVALUATION[:-1]}
            )
            if training not in runs:
                name = f"{file_name(cell.trained_as)}-seed{seed}"
                if name.casefold() in names:
                    raise UserError(
                        f"cells '{names[name.casefold()]}' and '{cell.name}' are trained differently "
                        f"and would share the folder '{name}': rename one"
                    )
                names[name.casefold()] = cell.name
                overrides = [write_override(key, value) for key, value in changes.items()]
                runs[training] = PlannedRun(name, config, overrides)
            run = runs[training]
            run.evaluations.append(_evaluation(cell, seed, config, run))
    return list(runs.values())


def run_folder(out: Path, run: PlannedRun) -> Path:
    return out / "runs" / run.name


def _config(cell: Cell, base: Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    try:
        config = with_changes(base, changes.items())
    except UserError as error:
        raise UserError(f"cell '{cell.name}': {error}") from error
    if config.training.fit_all:
        raise UserError(f"cell '{cell.name}': training.fit_all leaves nothing to evaluate on")
    return config


def _evaluation(cell: Cell, seed: int, config: RunConfig, run: PlannedRun) -> Evaluation:
    own, trained = (flat({"evaluation": asdict(each.evaluation)}) for each in (config, run.config))
    overrides = [
        write_override(key, value) for key, value in own.items() if trained.get(key) != value
    ]
    return Evaluation(
        cell.name, seed, config, file_name(cell.name) if overrides else None, overrides
    )
