"""What of an experiment is done already, seen from the runs' folders alone."""

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

_OF_SUMMARY = ("best_step", "paths", "parameters", "seconds_of_last_start", "config_sha256")
_OF_METRICS = ("checkpoint", "seconds", "config_sha256")


def evaluation_folder(run: RunFolder, split: str, evaluation: Evaluation) -> Path:
    return run.evaluation(split, evaluation.name)


def summary_of(run: RunFolder, planned: PlannedRun) -> dict[str, Any] | None:
    """The summary of a training of this configuration that came to its end; None where there is none."""
    return _of(run.summary, planned.config.sha256(), _OF_SUMMARY)


def has_weights(run: RunFolder, summary: dict[str, Any]) -> bool:
    """Whether the best checkpoint is still there."""
    return (run.checkpoints / checkpoint_name(summary["best_step"]) / ".metadata").is_file()


def metrics_of(
    run: RunFolder, planned: PlannedRun, evaluation: Evaluation, split: str
) -> dict[str, Any] | None:
    """The metrics of an evaluation of the finished training's best weights; None where there are none."""
    summary = summary_of(run, planned)
    folder = evaluation_folder(run, split, evaluation)
    metrics = _of(folder / "metrics.json", evaluation.config.sha256(), _OF_METRICS)
    if summary is None or metrics is None or not (folder / "predictions.parquet").is_file():
        return None
    return metrics if metrics["checkpoint"] == checkpoint_name(summary["best_step"]) else None


def _of(file: Path, config_sha256: str, needs: Iterable[str]) -> dict[str, Any] | None:
    """None of a damaged file, too, which is logged: what it tells of is done again."""
    if not file.exists():
        return None
    try:
        values = read_json(file, remedy="made again")
        missing = next((name for name in needs if name not in values), None)
        if missing is not None:
            raise UserError(f"'{file}' is damaged (it lacks '{missing}'): made again")
    except UserError as error:
        _say_once(str(error))
        return None
    return values if values.get("config_sha256") == config_sha256 else None


@cache
def _say_once(text: str) -> None:
    log.warning("%s", text)
