"""Plans the training runs and evaluations for the cells of an experiment.

Cells that differ only in the evaluation share a run.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchrec_priors.config import with_changes, write_override
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.matrix import EVALUATION, Cell, file_name, flat
from torchrec_priors.settings.run_config import RunConfig


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a cell with one seed.

    Attributes:
        config: the whole configuration.
        name: the value of `evaluate --name`; None for the evaluation with the run's settings.
        overrides: settings for `evaluate`; empty for the evaluation with the run's settings.
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
        name: the name of the run's folder.
        config: the configuration of the training, taken from the first of the cells that share it.
        overrides: settings for `train`, in addition to the base configuration.
    """

    name: str
    config: RunConfig
    overrides: list[str]
    evaluations: list[Evaluation] = field(default_factory=list)

    def only(self, cells: Iterable[str]) -> "PlannedRun":
        """Returns the same run with only the evaluations of these cells."""
        names = set(cells)
        kept = [evaluation for evaluation in self.evaluations if evaluation.cell in names]
        return replace(self, evaluations=kept)


def plan(
    cells: Iterable[Cell], seeds: Iterable[int], base: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[PlannedRun]:
    """Plans the runs, all cells of a seed before those of the next seed.

    A plain baseline does not depend on the seed, so it is planned for the first seed only.

    Args:
        base: the values of the base configuration, as read from TOML.
        budget: dotted key -> value, changes for all cells.

    Raises:
        UserError: a cell's configuration is invalid or leaves nothing to evaluate on, or two
            training runs have the same name.
    """
    cells = list(cells)
    runs: dict[str, PlannedRun] = {}  # by the settings of the training
    # Name of a run -> its cell. A file system may ignore case, so names are compared without it.
    named: dict[str, str] = {}
    for number, seed in enumerate(seeds):
        for cell in cells:
            changes = {**budget, **cell.changes, "seed": seed}
            config = _config(cell, base, changes)
            if config.plain.name and number:
                continue
            training = _training_of(config)
            if training not in runs:
                name = f"{file_name(cell.trained_as)}-seed{seed}"
                # Names may collide: a listed cell may have the name of a combination's training.
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
    """Returns the folder of a run in an experiment's folder."""
    return out / "runs" / run.name


def _config(cell: Cell, base: Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    """Returns the whole configuration of a cell, checked."""
    try:
        config = with_changes(base, changes.items())
        if config.plain.name:
            from torchrec_priors.plain.plain import check_plain  # SciPy takes half a second

            check_plain(config.plain)
    except UserError as error:
        raise UserError(f"cell '{cell.name}': {error}") from error
    if config.training.fit_all:
        raise UserError(f"cell '{cell.name}': training.fit_all leaves nothing to evaluate on")
    return config


def _training_of(config: RunConfig) -> str:
    """Returns the settings of a configuration as text, without those of the evaluation."""
    sections = asdict(config)
    del sections[EVALUATION.removesuffix(".")]
    return json.dumps(sections)


def _evaluation(cell: Cell, seed: int, config: RunConfig, run: PlannedRun) -> Evaluation:
    """Plans the evaluation of a cell, with the settings in which it differs from the run."""
    # The first cell of a run is evaluated with the run's own settings and needs no name.
    wanted = _evaluation_settings(config)
    trained = _evaluation_settings(run.config)
    overrides = [
        write_override(key, value) for key, value in wanted.items() if trained.get(key) != value
    ]
    name = file_name(cell.name) if overrides else None
    return Evaluation(cell.name, seed, config, name, overrides)


def _evaluation_settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings of the evaluation by dotted key."""
    return flat({"evaluation": asdict(config.evaluation)})
