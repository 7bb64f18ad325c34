"""The metrics of an evaluation, as a dictionary that libraries for data frames can read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas

# Names in `metrics.json` that are no numbers of the evaluation itself.
_NOT_METRICS = ("users", "items", "horizon", "seconds", "ranks")


class Metrics(dict[str, Any]):
    """The content of `metrics.json`: the metrics by name, and how they came about.

    Attributes:
        folder: the folder of the evaluation, with `metrics.json` and `predictions.parquet`.
        summary: the main figures in words, as `evaluate` prints them.
    """

    def __init__(self, values: dict[str, Any], folder: Path, summary: str) -> None:
        super().__init__(values)
        self.folder = folder
        self.summary = summary

    def to_arrow(self) -> pa.Table:
        """Returns a table with the columns `metric` and `value`, a row for each number.

        Polars, DuckDB and pandas read it: `polars.from_arrow(metrics.to_arrow())`.
        """
        numbers = {
            name: float(value)
            for name, value in self.items()
            if isinstance(value, int | float)
            and not isinstance(value, bool)
            and name not in _NOT_METRICS
        }
        return pa.table(
            {
                "metric": pa.array(numbers.keys(), pa.string()),
                "value": pa.array(numbers.values(), pa.float64()),
            }
        )

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns the table of `to_arrow` as a data frame of pandas, which must be installed."""
        return self.to_arrow().to_pandas()

    def predictions(self) -> pa.Table:
        """Returns the recommendations that were evaluated, one row for each user."""
        from torchrec_priors.parquet import read_table

        return read_table(self.folder / "predictions.parquet")

    def __repr__(self) -> str:
        return self.summary
