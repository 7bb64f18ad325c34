"""What a run's folder holds, for comparisons."""

from pathlib import Path
from typing import Any

from torchrec_priors.training.run.log_lines import read_lines


def logged(run: Path) -> list[dict[str, Any]]:
    """What the lines of its metrics hold, in their order."""
    return [values for _, values in read_lines(run / "metrics.jsonl")]


def losses(run: Path) -> list[float]:
    """Of the lines of its metrics that have one, in their order."""
    return [line["loss"] for line in logged(run) if "loss" in line]
