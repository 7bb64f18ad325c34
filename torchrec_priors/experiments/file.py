"""Reads the TOML file of an experiment. Unknown keys and wrong types are errors.

A cell is one configuration of an experiment, which is run with several seeds.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.limits import MOST_AT_ONCE, check_most
from torchrec_priors.config import read_toml
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.search.settings import SearchSettings
from torchrec_priors.settings.mistakes import explain
from torchrec_priors.settings.shipped import find_config

_RENAMED = {"baseline": "reference"}  # old key -> the new key
_STRICT = {"extra": "forbid", "strict": True}

Changes = dict[str, Any]  # changes to the configuration, with dotted or nested keys


@dataclass
class ExperimentFile:
    """The configurations that an experiment runs, and how it compares them.

    Attributes:
        config: the base configuration of all cells: a path relative to this file, or the name of a
            configuration that comes with the project.
        seeds: the seeds with which every cell is run.
        name: the name of the experiment; by default the file's name.
        data: the prepared data set, relative to the working folder; `--data` takes precedence.
        split: the split that the cells are evaluated on; `--split` takes precedence.
        reference: the name of the cell that the others are compared with; by default none.
        at_once: the number of runs at a time; `--at-once` takes precedence.
        metrics: the metrics of the evaluation that the table shows.
        budget: changes to the configuration for all cells; a cell may not change these keys.
        cells: name of a cell -> its changes to the configuration.
        axes: axis -> value -> changes to the configuration. Every combination of one value of each
            axis is a further cell, which is named after its values.
        exclude: combinations that are left out. An entry (axis -> value or list of values) leaves
            out every combination that has one of the listed values in each of the entry's axes.
        search: the values that `--search` tries for the cells.
    """

    config: str
    seeds: list[int]
    name: str = ""
    data: str = ""
    split: Literal["validation", "test"] = "validation"
    reference: str = ""
    at_once: int = 1
    metrics: list[str] = field(
        default_factory=lambda: ["recall@10", "ndcg@10", "entropy@10", "coverage@10"]
    )
    budget: Changes = field(default_factory=dict)
    cells: dict[str, Changes] = field(default_factory=dict)
    axes: dict[str, dict[str, Changes]] = field(default_factory=dict)
    exclude: list[dict[str, str | list[str]]] = field(default_factory=list)
    search: SearchSettings | None = None

    def check(self) -> None:
        """Raises UserError for values of the right type that make no sense in an experiment."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds = {self.seeds}: give at least one, and none twice")
        if self.at_once < 1:
            raise UserError(f"at_once = {self.at_once} must be at least 1")
        check_most("at_once", self.at_once, MOST_AT_ONCE)

        # With other characters, the name of the folder would need quotes in a shell.
        if not re.fullmatch(r"[\w.+=-]+", self.name):
            raise UserError(
                f"name = '{self.name}' becomes a folder's name: letters, digits and . _ + = - only"
            )
        if not self.cells and not self.axes:
            raise UserError('no cells: give at least one, as in [cells."LT/ST_1"], or [axes...]')
        for axis, values in self.axes.items():
            if not values:
                raise UserError(f"axes.{axis} has no values")
        if self.search is not None:
            self.search.check()


ExperimentFile.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]


def read_experiment(file: Path) -> ExperimentFile:
    """Reads the TOML file of an experiment; `config` becomes a path from the working folder.

    Raises:
        UserError: the file does not exist or is not TOML, a key is unknown (the message names the
            nearest valid key), or a value is invalid.
    """
    return experiment_of(read_toml(file, "FILE"), file)


def experiment_of(values: Mapping[str, Any], file: Path) -> ExperimentFile:
    """Reads the content of an experiment's file.

    Args:
        values: the content, as nested dictionaries.
        file: the file. Its name is the default name of the experiment, and paths are relative to
            its folder.

    Raises:
        UserError: a key is unknown, or a value is invalid.
    """
    for old, new in _RENAMED.items():
        if old in values:
            raise UserError(f"{file}: experiment key '{old}' is now called '{new}': use that name")

    # In strict mode pydantic reads dataclasses from JSON, but not from dicts.
    try:
        experiment = _reader().validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        valid = [item.name for item in fields(ExperimentFile)]
        valid += [f"search.{item.name}" for item in fields(SearchSettings)]
        raise UserError(f"{file}: {explain(error, 'experiment key', valid)}") from error

    # The default name is checked, too: a file's name may be invalid as the name of a folder.
    experiment.name = experiment.name or file.stem
    try:
        experiment.check()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    experiment.config = str(_base(file, experiment.config))
    return experiment


def _base(file: Path, config: str) -> Path:
    """Returns the file of the base configuration: beside the experiment's file, or shipped."""
    beside = file.parent / config
    if beside.exists():
        return beside
    shipped = find_config(config, f"{file}: config")
    # A path that does not exist is reported later, as it is relative to the experiment's file.
    return shipped if shipped.exists() else beside


@functools.cache
def _reader() -> TypeAdapter[ExperimentFile]:
    """Builds the reader. It is kept, because building it takes much longer than reading a file."""
    return TypeAdapter(ExperimentFile)
