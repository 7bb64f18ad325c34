"""The TOML file of an experiment, typed. Unknown keys and wrong types are errors."""

import functools
import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.limits import check_most
from torchrec_priors.config import explain, read_toml
from torchrec_priors.errors import UserError
from torchrec_priors.experiment.search.settings import SearchSettings

MOST_AT_ONCE = 1_000  # processes of one machine
_RENAMED = {"baseline": "reference"}  # old key -> the new key
_STRICT = {"extra": "forbid", "strict": True}

Changes = dict[str, Any]  # of the configuration: dotted or nested keys


@dataclass
class ExperimentFile:
    """What is run, and what it is compared with.

    Attributes:
        config: base configuration of all cells; its path is relative to this file.
        seeds: every cell is run with each.
        name: of the experiment; by default the file's name.
        data: prepared data set, relative to the working folder; `--data` has precedence.
        split: what the cells are evaluated on; `--split` has precedence.
        reference: name of the cell that the others are compared with; by default none.
        at_once: runs at a time; `--at-once` has precedence.
        metrics: of the evaluation, shown in the table.
        budget: changes of the configuration that hold for all cells; no cell may change them.
        cells: changes of the configuration by name of a cell.
        axes: further cells, the product of all axes: axis -> value -> changes. A cell is named
            after its values.
        exclude: products left out: those that have all the values of an entry (axis -> value or
            list of values).
        search: what `--search` tries for the cells.
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
        """Raises UserError for values that their types allow and an experiment does not."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds = {self.seeds}: give at least one, and none twice")
        if self.at_once < 1:
            raise UserError(f"at_once = {self.at_once} must be at least 1")
        check_most("at_once", self.at_once, MOST_AT_ONCE)

        # Other characters in the name of a folder would need quotes in a shell.
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
    """Reads the experiment of a TOML file; its `config` becomes a path from the working folder.

    Raises:
        UserError: no such file, no TOML, an unknown key (with the nearest valid one), or an invalid
            value.
    """
    values = read_toml(file, "FILE")
    for old, new in _RENAMED.items():
        if old in values:
            raise UserError(f"{file}: experiment key '{old}' is now called '{new}': use that name")

    # Through JSON: in strict mode pydantic reads dataclasses from JSON only, not from dicts.
    try:
        experiment = _reader().validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        valid = [item.name for item in fields(ExperimentFile)]
        valid += [f"search.{item.name}" for item in fields(SearchSettings)]
        raise UserError(f"{file}: {explain(error, 'experiment key', valid)}") from error

    # The name is checked after its default, which may be no name of a folder either.
    experiment.name = experiment.name or file.stem
    try:
        experiment.check()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    experiment.config = str(file.parent / experiment.config)
    return experiment


@functools.cache
def _reader() -> TypeAdapter[ExperimentFile]:
    """Built once: building takes much longer than reading."""
    return TypeAdapter(ExperimentFile)
