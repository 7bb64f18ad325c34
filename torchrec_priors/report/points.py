"""Points of a line: one model at each place of an axis, and never the best of several."""

import json
from collections.abc import Sequence

from torchrec_priors.report.figure import Series
from torchrec_priors.report.sections import Row

_SIZE = ("model.size", "model.dim", "encoder.layers", "encoder.heads")
_AXES = {"context": ("model.context",), "size": _SIZE, "segments": ("priors.tree", "model.horizon")}


def points(label: str, axis: str, rows: Sequence[tuple[float, Row]]) -> tuple[list[Series], list[str]]:
    """ndcg@10 of rows over a place on an axis.

    Where several stand at one place, rows that differ along the axis alone are a line each; of a line that still has
    several at a place, or one place only, nothing is drawn: a choice among them would be made on the split shown.

    Args:
        axis: a key of `_AXES`: which settings make the place.

    Returns:
        the lines, and what of the rows is left out for others that stand there.
    """
    known = [(x, row) for x, row in rows if row.mean("ndcg@10") is not None]
    if _alone(known):
        return ([_series(label, known)] if known else []), []
    alike: dict[str, list[tuple[float, Row]]] = {}
    for x, row in known:
        same = {key: value for key, value in row.config.items() if key not in ("seed", *_AXES[axis])}
        alike.setdefault(json.dumps(same, sort_keys=True), []).append((x, row))
    whole = [some for some in alike.values() if _alone(some) and len(some) > 1]
    lines = [_series(f"{label}, as {min(some, key=lambda each: each[0])[1].label}", some) for some in whole]
    left = [row.label for some in alike.values() if some not in whole for _, row in some]
    return lines, [f"{label}: " + ", ".join(f"“{name}”" for name in left)] if left else []


def competing(left: Sequence[str]) -> str:
    """What a caption says of rows that are left out."""
    return f" Not drawn, as several rows stand at one place: {'; '.join(left)}." if left else ""


def _alone(rows: Sequence[tuple[float, Row]]) -> bool:
    return len({x for x, _ in rows}) == len(rows)


def _series(label: str, rows: Sequence[tuple[float, Row]]) -> Series:
    ordered = sorted(rows, key=lambda each: each[0])
    return Series(label, [x for x, _ in ordered], [row.mean("ndcg@10") or 0.0 for _, row in ordered])
