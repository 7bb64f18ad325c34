"""Finds the parts of an experiment that are finished, from the files in the runs' folders."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.plan import Evaluation, PlannedRun
from torchrec_priors.training.checkpoint.checkpoint import checkpoint_name
from torchrec_priors.training.run.folder import RunFolder

log = logging.getLogger(__name__)

# Keys that each file must have. Without one of them it is damaged.
_OF_SUMMARY = ("best_step", "paths", "parameters", "seconds_of_last_start", "config_sha256")
_OF_METRICS = ("checkpoint", "seconds", "config_sha256")


def evaluation_folder(run: RunFolder, split: str, evaluation: Evaluation) -> Path:
    """Returns the folder that an evaluation is written to."""
    return run.evaluation(split, evaluation.name)


def summary_of(run: RunFolder, planned: PlannedRun) -> dict[str, Any] | None:
    """Reads the summary of a finished training of this configuration; None if there is none."""
    return _read(run.summary, planned.config.sha256(), _OF_SUMMARY)


def has_weights(run: RunFolder, summary: dict[str, Any]) -> bool:
    """Whether the best checkpoint still exists. A plain baseline needs none to be evaluated."""
    if "plain" in summary:
        return True
    return (run.checkpoints / checkpoint_name(summary["best_step"]) / ".metadata").is_file()


def metrics_of(
    run: RunFolder, planned: PlannedRun, evaluation: Evaluation, split: str
) -> dict[str, Any] | None:
    """Reads the metrics of an evaluation of the best weights; None if it is not finished."""
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
    """Reads a summary or metrics of this configuration.

    Returns:
        the values; None if there is no file of this configuration, or if it is damaged. A damaged
        file is logged, and the training or evaluation is repeated.
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
    """Logs a warning, but never the same one twice."""
    log.warning("%s", text)
