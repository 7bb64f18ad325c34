"""An experiment's folder: the cells of its runs, and the trials of its search.

A cell is one configuration of the experiment's matrix, with all its seeds. A trial of a search is a
cell with other values of some settings.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.experiments.matrix import file_name
from torchrec_priors.parquet import read_schema, read_table, readable

# The name of a run ends with its seed. The name of a trial ends with the hash of its values, before
# the seed (`search.trials.Trial.of`).
SEED = re.compile(r"-seed\d+$")
_HASH = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class ExperimentFolder:
    """A folder in which an experiment may have run.

    Attributes:
        cells: (run, split, hash of the configuration) -> (cell, its place in the table).
        searched: the cells of the search, as names of files; empty without a search.
    """

    path: Path
    cells: dict[tuple[str, str, str], tuple[str, int]]
    searched: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> "ExperimentFolder":
        """Reads the tables in a folder. A folder without tables has no cells."""
        table = path / "search" / "results.parquet"
        searched = frozenset(file_name(row["cell"]) for row in _rows(table, ["cell"]))
        return cls(path, _cells(path), searched)

    @property
    def trials(self) -> Path:
        """The table of all trials of the search."""
        return self.path / "search" / "results.md"

    def name(self, run: str) -> str:
        """Returns the name of a run's cell; without a cell, the folder's name without the seed."""
        folder = SEED.sub("", run)
        for cell, _ in self.cells.values():
            if file_name(cell) == folder:
                return cell
        return folder

    def trial(self, name: str) -> str | None:
        """Returns the trial that a run or an evaluation with this name belongs to.

        The name of a trial is a searched cell and a hash of values.

        Returns:
            the trial; None for other names, such as that of a cell with its own values.
        """
        cell, _, values = SEED.sub("", name).rpartition("-")
        if cell in self.searched and _HASH.fullmatch(values):
            return f"{cell}-{values}"
        return None


def _cells(experiment: Path) -> dict[tuple[str, str, str], tuple[str, int]]:
    """Reads the cells of all tables of an experiment, see `ExperimentFolder.cells`."""
    cells: dict[tuple[str, str, str], tuple[str, int]] = {}
    for file in sorted(experiment.glob("*/results.parquet")):
        for number, row in enumerate(_rows(file, ["run", "split", "config_sha256", "cell"])):
            key = (row["run"], row["split"], row["config_sha256"])
            cells.setdefault(key, (row["cell"], number))
    return cells


def _rows(file: Path, columns: list[str]) -> list[dict[str, str]]:
    """Reads some columns of a table; empty if the file does not exist or lacks these columns.

    Raises:
        UserError: the file is damaged.
    """
    if not file.exists():
        return []
    with readable(file, "the experiment's command writes it again"):
        if not set(columns) <= set(read_schema(file).names):
            return []
        rows: list[dict[str, str]] = read_table(file, columns).to_pylist()
    return rows
