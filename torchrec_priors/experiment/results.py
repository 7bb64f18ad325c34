"""What came out: one row a cell and seed, and every cell's difference to the reference row."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from torchrec_priors.baselines.baseline import interests_of
from torchrec_priors.common.files import new_file
from torchrec_priors.experiment.finished import evaluation_folder, metrics_of, summary_of
from torchrec_priors.experiment.per_user import PerUserReader
from torchrec_priors.experiment.plan import PlannedRun, run_folder
from torchrec_priors.experiment.runner import Failures
from torchrec_priors.experiment.statistics import Difference, Interval, intervals_of
from torchrec_priors.parquet import write_table
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.loop import SELECTED_BY
from torchrec_priors.training.run.folder import RunFolder

Row = dict[str, Any]
NOT_RUN = "not run"
_TEXTS = ("cell", "run", "split", "config_sha256", "data_sha256", "error", "stopped", "checkpoint")


@dataclass
class Results:
    """Of all cells and seeds.

    Attributes:
        rows: by cell and seed, `error` alone where there is no result.
        per_user: float64 [users, len(COMPARED)] by cell and seed, for those with a result.
    """

    rows: list[Row] = field(default_factory=list)
    per_user: dict[str, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))

    def of(self, cell: str) -> list[Row]:
        """The rows of a cell that have a result."""
        return [row for row in self.rows if row["cell"] == cell and row["error"] is None]

    def differences(self, reference: str) -> dict[str, list[Interval]]:
        """`COMPARED` of each other cell minus the reference row's, over the users and the seeds that both have."""
        found = {
            cell: self.difference(cell, reference) for cell in self.per_user if cell != reference
        }
        known = {cell: difference for cell, difference in found.items() if difference is not None}
        if not known:
            return {}
        return dict(zip(known, intervals_of(list(known.values())), strict=True))

    def difference(self, cell: str, reference: str) -> Difference | None:
        """None where they have no seed in common."""
        ours = self.per_user.get(cell, {})
        theirs = self.per_user.get(reference, {})
        return Difference.between(ours, theirs) if ours.keys() & theirs.keys() else None

    def write(self, file: Path) -> None:
        """`results.parquet`: all rows, with every column that any of them has."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        columns = {
            name: pa.array(
                [row.get(name) for row in self.rows],
                pa.string() if name in _TEXTS else _number(self.rows, name),
            )
            for name in names
        }
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
    """The results of everything that is finished, and the errors of what is not, in the order of `cells`."""
    results = Results()
    reader = PerUserReader.of(data)
    planned = [(run, each) for run in runs for each in run.evaluations]
    for run, each in sorted(planned, key=lambda pair: (cells.index(pair[1].cell), pair[1].seed)):
        folder = RunFolder(run_folder(out, run))
        row: Row = {
            "cell": each.cell,
            "seed": each.seed,
            "run": run.name,
            "split": split,
            "config_sha256": each.config.sha256(),
            "interests": interests_of(each.config.baseline),
            "data_sha256": data.manifest.content_sha256,
            "error": failures.get((each.cell, each.seed)),
        }
        summary = summary_of(folder, run)
        metrics = metrics_of(folder, run, each, split)
        if summary is None or metrics is None:
            row["error"] = row["error"] or NOT_RUN
        else:
            predictions = evaluation_folder(folder, split, each) / "predictions.parquet"
            try:
                results.per_user[each.cell][each.seed] = reader.read(predictions, metrics)
                row.update(
                    _of_training(summary) | _of_evaluation(metrics, data.manifest.category_prior)
                )
                if (
                    each.name is not None
                ):  # the training's validation was of other evaluation settings
                    validation = metrics_of(folder, run, each, "validation") or {}
                    row[f"validation/{SELECTED_BY}"] = validation.get(SELECTED_BY)
            except (ValueError, OSError) as error:
                row["error"] = (
                    f"{str(error).splitlines()[0]}: remove {predictions.parent} and run again"
                )
        results.rows.append(row)
    return results


_NOT_SHOWN = ("parameters", "paths", "config_sha256", "run_id", "log")


def _of_training(summary: dict[str, Any]) -> Row:
    left = {name: value for name, value in summary.items() if name not in _NOT_SHOWN}
    sizes = {f"parameters/{name}": value for name, value in summary["parameters"].items()}
    return {"heads": summary["paths"], **sizes, **left}


def _of_evaluation(metrics: dict[str, Any], category: str) -> Row:
    """The scalar metrics; of those of single groups, the category prior's alone."""
    row: Row = {"evaluation_seconds": metrics["seconds"], "checkpoint": metrics["checkpoint"]}
    for name, value in metrics.items():
        known = name in ("split", "seconds", "ranks", "checkpoint", "config_sha256")
        other = name.startswith("group/") and not name.startswith(f"group/{category}/")
        if not known and not other and (value is None or isinstance(value, int | float)):
            row[name] = value
    return row


def _number(rows: list[Row], name: str) -> pa.DataType:
    values = [row[name] for row in rows if row.get(name) is not None]
    if values and all(isinstance(value, bool) for value in values):
        return pa.bool_()
    return (
        pa.int64() if values and all(isinstance(value, int) for value in values) else pa.float64()
    )
