"""What a run's folder holds, for comparisons."""

import json
from pathlib import Path


def losses(run: Path) -> list[float]:
    """Of the lines of its metrics that have one, in their order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
