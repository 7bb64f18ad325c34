"""What an experiment's folder says of its runs: whose cells they are, and which of them a search tried."""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.experiment.matrix import file_name
from torchrec_priors.parquet import read_schema, read_table, readable

SEED = re.compile(r"-seed\d+$")
_HASH = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class ExperimentFolder:
    """
    Attributes:
        cells: cell and its place by run, split and configuration.
        searched: cells whose values were searched, as names of files; none where no search was made.
    """

    path: Path
    cells: dict[tuple[str, str, str], tuple[str, int]]
    searched: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> "ExperimentFolder":
        table = path / "search" / "results.parquet"
        searched = frozenset(file_name(row["cell"]) for row in _rows(table, ["cell"]))
        return cls(path, _cells(path), searched)

    @property
    def trials(self) -> Path:
        """The table of the search's trials."""
        return self.path / "search" / "results.md"

    def name(self, run: str) -> str:
        """The cell whose run has this folder, as it is written there; without one the folder, both without the seed."""
        folder = SEED.sub("", run)
        return next((cell for cell, _ in self.cells.values() if file_name(cell) == folder), folder)

    def trial(self, name: str) -> str | None:
        """The trial that a run or an evaluation is named after: a searched cell, then the hash of the values; None for
        others, such as a cell as it stands."""
        cell, _, values = SEED.sub("", name).rpartition("-")
        return f"{cell}-{values}" if cell in self.searched and _HASH.fullmatch(values) else None


def _cells(experiment: Path) -> dict[tuple[str, str, str], tuple[str, int]]:
    found: dict[tuple[str, str, str], tuple[str, int]] = {}
    for file in sorted(experiment.glob("*/results.parquet")):
        for number, row in enumerate(_rows(file, ["run", "split", "config_sha256", "cell"])):
            found.setdefault(
                (row["run"], row["split"], row["config_sha256"]), (row["cell"], number)
            )
    return found


def _rows(file: Path, columns: list[str]) -> list[dict[str, str]]:
    """None where there is no such file, or where it is a table of another kind.

    Raises:
        UserError: it is damaged.
    """
    if not file.exists():
        return []
    with readable(file, "the experiment's command writes it anew"):
        if not set(columns) <= set(read_schema(file).names):
            return []
        rows: list[dict[str, str]] = read_table(file, columns).to_pylist()
    return rows
