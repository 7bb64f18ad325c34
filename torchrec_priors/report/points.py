"""Points of a line: one model at each place of an axis, never the best of several, and what else tells them apart."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_priors.report.figure import Series
from torchrec_priors.report.sections import Row, differing

_SIZE = ("model.size", "model.dim", "encoder.layers", "encoder.heads")
_AXES = {"context": ("model.context",), "size": _SIZE, "segments": ("priors.tree", "model.horizon")}


@dataclass
class Points:
    """Attributes:
    lines: what is drawn.
    left: which rows are left out for others that stand at their places.
    mixed: settings besides the axis in which the points of a line differ.
    """

    lines: list[Series] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    def add(self, more: "Points", of: str = "") -> None:
        """Takes the points of another line, or of another panel, `of` a name."""
        before = f"{of}, " if of else ""
        self.lines += more.lines
        self.left += [before + each for each in more.left]
        self.mixed += [before + each for each in more.mixed]

    def remarks(self) -> str:
        """What a caption says of rows that are left out, and of lines whose points differ in more than the axis."""
        said = (
            f" Not drawn, as several rows stand at one place: {'; '.join(self.left)}."
            if self.left
            else ""
        )
        if self.mixed:
            said += f" Points that differ in more than the axis: {'; '.join(self.mixed)}."
        return said


def points(label: str, axis: str, rows: Sequence[tuple[float, Row]]) -> Points:
    """ndcg@10 of rows over a place on an axis.

    Where several stand at one place, rows that differ along the axis alone are a line each; of a line that still has
    several at a place, or one place only, nothing is drawn: a choice among them would be made on the split shown.

    Args:
        axis: a key of `_AXES`: which settings make the place.
    """
    known = [(x, row) for x, row in rows if row.mean("ndcg@10") is not None]
    if not known:
        return Points()
    if _alone(known):
        differ = differing([row for _, row in known], _along(axis))
        return Points(
            [_series(label, known)], mixed=[f"{label} ({', '.join(differ)})"] if differ else []
        )
    alike: dict[str, list[tuple[float, Row]]] = {}
    for x, row in known:
        same = {key: value for key, value in row.config.items() if key not in _along(axis)}
        alike.setdefault(json.dumps(same, sort_keys=True), []).append((x, row))
    whole = [some for some in alike.values() if _alone(some) and len(some) > 1]
    lines = [
        _series(f"{label}, as {min(some, key=lambda each: each[0])[1].label}", some)
        for some in whole
    ]
    left = [row.label for some in alike.values() if some not in whole for _, row in some]
    return Points(lines, [f"{label}: " + ", ".join(f"“{name}”" for name in left)] if left else [])


def _along(axis: str) -> tuple[str, ...]:
    """Settings in which points of a line may differ."""
    return ("seed", *_AXES[axis])


def _alone(rows: Sequence[tuple[float, Row]]) -> bool:
    return len({x for x, _ in rows}) == len(rows)


def _series(label: str, rows: Sequence[tuple[float, Row]]) -> Series:
    ordered = sorted(rows, key=lambda each: each[0])
    return Series(
        label, [x for x, _ in ordered], [row.mean("ndcg@10") or 0.0 for _, row in ordered]
    )
