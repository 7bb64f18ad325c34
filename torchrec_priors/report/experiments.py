"""What an experiment's folder says about its runs: their cells, and which a search tried."""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.experiment.matrix import file_name
from torchrec_priors.parquet import read_schema, read_table, readable

# Ends of names: of a run its seed, of a trial the hash of its values (`search.trials.Trial.of`).
SEED = re.compile(r"-seed\d+$")
_HASH = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class ExperimentFolder:
    """A folder in which an experiment may have run.

    Attributes:
        cells: (cell, its place in the table) by run, split and hash of the configuration.
        searched: cells whose values were searched, as names of files; empty without a search.
    """

    path: Path
    cells: dict[tuple[str, str, str], tuple[str, int]]
    searched: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> "ExperimentFolder":
        """Reads the tables in a folder; a folder without tables has no cells."""
        table = path / "search" / "results.parquet"
        searched = frozenset(file_name(row["cell"]) for row in _rows(table, ["cell"]))
        return cls(path, _cells(path), searched)

    @property
    def trials(self) -> Path:
        """The table of the search's trials."""
        return self.path / "search" / "results.md"

    def name(self, run: str) -> str:
        """The name of the cell of a run's folder, else the folder's; both without the seed."""
        folder = SEED.sub("", run)
        for cell, _ in self.cells.values():
            if file_name(cell) == folder:
                return cell
        return folder

    def trial(self, name: str) -> str | None:
        """The trial of a run or an evaluation of this name: a searched cell, then a hash of values.

        None for others, such as a cell without changes.
        """
        cell, _, values = SEED.sub("", name).rpartition("-")
        if cell in self.searched and _HASH.fullmatch(values):
            return f"{cell}-{values}"
        return None


def _cells(experiment: Path) -> dict[tuple[str, str, str], tuple[str, int]]:
    cells: dict[tuple[str, str, str], tuple[str, int]] = {}
    for file in sorted(experiment.glob("*/results.parquet")):
        for number, row in enumerate(_rows(file, ["run", "split", "config_sha256", "cell"])):
            key = (row["run"], row["split"], row["config_sha256"])
            cells.setdefault(key, (row["cell"], number))
    return cells


def _rows(file: Path, columns: list[str]) -> list[dict[str, str]]:
    """Some columns of a table; empty if the file does not exist or is a table of another kind.

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
