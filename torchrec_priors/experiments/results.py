"""The results of an experiment: a row for each cell and seed, and differences from a reference."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from torchrec_priors.baselines.baseline import interests_of
from torchrec_priors.common.files import new_file
from torchrec_priors.experiments.finished import evaluation_folder, metrics_of, summary_of
from torchrec_priors.experiments.per_user import PerUserReader
from torchrec_priors.experiments.plan import Evaluation, PlannedRun, run_folder
from torchrec_priors.experiments.runner import Failures
from torchrec_priors.experiments.statistics import Difference, Interval, intervals_of
from torchrec_priors.parquet import write_table
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.summary import SELECTED_BY

Row = dict[str, Any]
NOT_RUN = "not run"

_TEXTS = ("cell", "run", "split", "config_sha256", "data_sha256", "error", "stopped", "checkpoint",
          "plain")  # fmt: skip

# Keys of a training's summary, and of an evaluation's metrics, that do not become columns. Those of
# the metrics are in the row under other names.
_NOT_SHOWN = ("parameters", "paths", "config_sha256", "run_id", "log")
_KNOWN = ("split", "seconds", "ranks", "checkpoint", "config_sha256")


@dataclass
class Results:
    """The results of all cells and seeds.

    Attributes:
        rows: a row for each cell and seed. A row without a result has an `error`.
        per_user: cell -> seed -> float64 [users, len(COMPARED)], for the rows with a result. The
            only result of a plain baseline counts for all seeds.
    """

    rows: list[Row] = field(default_factory=list)
    per_user: dict[str, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))

    def of(self, cell: str) -> list[Row]:
        """Returns the rows of a cell that have a result."""
        return [row for row in self.rows if row["cell"] == cell and row["error"] is None]

    def differences(self, reference: str) -> dict[str, list[Interval]]:
        """Computes the difference between each other cell and the reference row.

        Returns:
            cell -> the mean over users and shared seeds of each metric in `COMPARED`, with its
            interval. Cells without a shared seed are left out.
        """
        differences = {}
        for cell in self.per_user:
            difference = self.difference(cell, reference) if cell != reference else None
            if difference is not None:
                differences[cell] = difference
        if not differences:
            return {}
        return dict(zip(differences, intervals_of(list(differences.values())), strict=True))

    def difference(self, cell: str, reference: str) -> Difference | None:
        """Subtracts the reference row from a cell; None if they have no seed in common."""
        ours = self.per_user.get(cell, {})
        theirs = self.per_user.get(reference, {})
        return Difference.between(ours, theirs) if ours.keys() & theirs.keys() else None

    def write(self, file: Path) -> None:
        """Writes `results.parquet`: all rows, with every column that occurs in a row."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        columns = {}
        for name in names:
            kind = pa.string() if name in _TEXTS else _number(self.rows, name)
            columns[name] = pa.array([row.get(name) for row in self.rows], kind)
        with new_file(file) as partial:
            write_table(pa.table(columns), partial)


def collect(
    out: Path,
    runs: list[PlannedRun],
    cells: list[str],
    data: PreparedData,
    split: str,
    failures: Failures,
) -> Results:
    """Reads the results of finished evaluations, and notes the errors of the others.

    Args:
        out: the folder of the experiment.
        cells: the names of the cells, in the order of the rows.
        failures: the errors of runs that failed.
    """
    results = Results()
    reader = PerUserReader.of(data)
    category = data.manifest.category_prior
    planned = [(run, evaluation) for run in runs for evaluation in run.evaluations]
    # Rows have the order of the cells, not of the runs.
    planned.sort(key=lambda pair: (cells.index(pair[1].cell), pair[1].seed))
    seeds = {evaluation.seed for _, evaluation in planned}

    for run, evaluation in planned:
        folder = RunFolder(run_folder(out, run))
        row: Row = {
            "cell": evaluation.cell,
            "seed": evaluation.seed,
            "run": run.name,
            "split": split,
            "config_sha256": evaluation.config.sha256(),
            "interests": interests_of(evaluation.config.baseline),
            "data_sha256": data.manifest.content_sha256,
            "error": failures.get((evaluation.cell, evaluation.seed)),
        }
        plain = evaluation.config.plain.name
        if plain:
            row["plain"] = plain
        # An evaluation without a result has a row, too, with the error.
        results.rows.append(row)
        summary = summary_of(folder, run)
        metrics = metrics_of(folder, run, evaluation, split)
        if summary is None or metrics is None:
            row["error"] = row["error"] or NOT_RUN
            continue

        predictions = evaluation_folder(folder, split, evaluation) / "predictions.parquet"
        try:
            per_user = reader.read(predictions, metrics)
            # No seed changes a plain baseline: it is compared with every training of the others.
            for seed in seeds if plain else {evaluation.seed}:
                results.per_user[evaluation.cell][seed] = per_user
            row.update(_of_training(summary) | _of_evaluation(metrics, category))
            row.update(_own_validation(folder, run, evaluation))
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            row["error"] = f"{reason}: remove {predictions.parent} and run again"
    return results


def _own_validation(folder: RunFolder, run: PlannedRun, evaluation: Evaluation) -> Row:
    """Returns the score on validation if the evaluation has other settings than the training."""
    if evaluation.name is None:
        return {}
    validation = metrics_of(folder, run, evaluation, "validation") or {}
    return {f"validation/{SELECTED_BY}": validation.get(SELECTED_BY)}


def _of_training(summary: dict[str, Any]) -> Row:
    """Returns the columns that come from a training's summary."""
    shown = {name: value for name, value in summary.items() if name not in _NOT_SHOWN}
    sizes = {f"parameters/{name}": value for name, value in summary["parameters"].items()}
    return {"heads": summary["paths"], **sizes, **shown}


def _of_evaluation(metrics: dict[str, Any], category: str) -> Row:
    """Returns the columns that come from an evaluation's metrics.

    Among the metrics of single groups, only those of the category prior have columns.
    """
    row: Row = {"evaluation_seconds": metrics["seconds"], "checkpoint": metrics["checkpoint"]}
    for name, value in metrics.items():
        # Other priors may have thousands of groups.
        of_other_group = name.startswith("group/") and not name.startswith(f"group/{category}/")
        if name in _KNOWN or of_other_group:
            continue
        if value is None or isinstance(value, int | float):
            row[name] = value
    return row


def _number(rows: list[Row], name: str) -> pa.DataType:
    """Returns the type of a column: booleans, whole numbers, or floats (even without any value)."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if values and all(isinstance(value, bool) for value in values):
        return pa.bool_()
    if values and all(isinstance(value, int) for value in values):
        return pa.int64()
    return pa.float64()
