"""What of an experiment is done already, by the files in the runs' folders only."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.errors import UserError
from torchrec_priors.experiment.plan import Evaluation, PlannedRun
from torchrec_priors.training.checkpoint.checkpoint import checkpoint_name
from torchrec_priors.training.run.folder import RunFolder

log = logging.getLogger(__name__)

# Keys without which a file is damaged.
_OF_SUMMARY = ("best_step", "paths", "parameters", "seconds_of_last_start", "config_sha256")
_OF_METRICS = ("checkpoint", "seconds", "config_sha256")


def evaluation_folder(run: RunFolder, split: str, evaluation: Evaluation) -> Path:
    """The folder in which an evaluation is written."""
    return run.evaluation(split, evaluation.name)


def summary_of(run: RunFolder, planned: PlannedRun) -> dict[str, Any] | None:
    """The summary of a finished training of this configuration; None if there is none."""
    return _read(run.summary, planned.config.sha256(), _OF_SUMMARY)


def has_weights(run: RunFolder, summary: dict[str, Any]) -> bool:
    """Whether the best checkpoint still exists."""
    return (run.checkpoints / checkpoint_name(summary["best_step"]) / ".metadata").is_file()


def metrics_of(
    run: RunFolder, planned: PlannedRun, evaluation: Evaluation, split: str
) -> dict[str, Any] | None:
    """The metrics of an evaluation of the finished training's best weights; None without them."""
    summary = summary_of(run, planned)
    folder = evaluation_folder(run, split, evaluation)
    metrics = _read(folder / "metrics.json", evaluation.config.sha256(), _OF_METRICS)
    if summary is None or metrics is None or not (folder / "predictions.parquet").is_file():
        return None

    # The run may have been trained again since it was evaluated.
    if metrics["checkpoint"] != checkpoint_name(summary["best_step"]):
        return None
    return metrics


def _read(file: Path, config_sha256: str, needs: Iterable[str]) -> dict[str, Any] | None:
    """The values of a file of this configuration; None without one.

    None also if the file is damaged, which is logged: what it describes is done again.
    """
    if not file.exists():
        return None

    try:
        values = read_json(file, remedy="made again")
        for name in needs:
            if name not in values:
                raise UserError(f"'{file}' is damaged (it lacks '{name}'): made again")
    except UserError as error:
        _log_once(str(error))
        return None

    # A file of another configuration does not count.
    return values if values.get("config_sha256") == config_sha256 else None


@cache
def _log_once(text: str) -> None:
    log.warning("%s", text)
