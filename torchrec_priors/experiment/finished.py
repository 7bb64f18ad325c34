"""What of an experiment is done already, seen from the runs' folders alone."""

import json
from pathlib import Path
from typing import Any

from torchrec_priors.experiment.plan import Evaluation, PlannedRun
from torchrec_priors.training.checkpoint import checkpoint_name
from torchrec_priors.training.run_folder import RunFolder


def evaluation_folder(run: RunFolder, split: str, evaluation: Evaluation) -> Path:
    return run.evaluation(split, evaluation.name)


def summary_of(run: RunFolder, planned: PlannedRun) -> dict[str, Any] | None:
    """The summary of a training of this configuration that came to its end; None where there is none."""
    return _of(run.summary, planned.config.sha256())


def has_weights(run: RunFolder, summary: dict[str, Any]) -> bool:
    """Whether the best checkpoint is still there."""
    return (run.checkpoints / checkpoint_name(summary["best_step"]) / ".metadata").is_file()


def metrics_of(run: RunFolder, planned: PlannedRun, evaluation: Evaluation, split: str) -> dict[str, Any] | None:
    """The metrics of an evaluation of the finished training's best weights; None where there are none."""
    summary = summary_of(run, planned)
    folder = evaluation_folder(run, split, evaluation)
    metrics = _of(folder / "metrics.json", evaluation.config.sha256())
    if summary is None or metrics is None or not (folder / "predictions.parquet").is_file():
        return None
    return metrics if metrics["checkpoint"] == checkpoint_name(summary["best_step"]) else None


def _of(file: Path, config_sha256: str) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return values if values.get("config_sha256") == config_sha256 else None
