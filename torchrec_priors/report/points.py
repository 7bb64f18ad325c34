"""Points of a line: one model at each place of an axis, never the best of several."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_priors.report.figure import Series
from torchrec_priors.report.sections import Row, differing

_SIZE = ("model.size", "model.dim", "encoder.layers", "encoder.heads")
_AXES = {"context": ("model.context",), "size": _SIZE, "segments": ("priors.tree", "model.horizon")}


@dataclass
class Points:
    """The points of some lines, and what a reader should know about them.

    Attributes:
        lines: what is drawn.
        left: which rows are left out because several are at one place.
        mixed: settings other than the axis in which the points of a line differ.
    """

    lines: list[Series] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    def add(self, more: "Points", of: str = "") -> None:
        """Adds the points of another line, or of another panel that is called `of`."""
        before = ""
        if of:
            before = f"{of}, "
        self.lines += more.lines
        self.left += [before + text for text in more.left]
        self.mixed += [before + text for text in more.mixed]

    def remarks(self) -> str:
        """Sentences for a caption: rows left out, and lines that mix other settings."""
        text = ""
        if self.left:
            text += f" Not drawn, as several rows stand at one place: {'; '.join(self.left)}."
        if self.mixed:
            text += f" Points that differ in more than the axis: {'; '.join(self.mixed)}."
        return text


def points(label: str, axis: str, rows: Sequence[tuple[float, Row]]) -> Points:
    """ndcg@10 of rows over their places on an axis.

    If several rows are at one place, rows that differ along the axis only are a line each. A line
    that still has several rows at a place, or one place only, is not drawn: choosing among them
    would use the split that is shown.

    Args:
        axis: a key of `_AXES`: which settings make the place.
        rows: (place on the axis, row).
    """
    known = [(x, row) for x, row in rows if row.mean("ndcg@10") is not None]
    if not known:
        return Points()

    if _one_at_each_place(known):
        one_line = Points([_series(label, known)])
        keys = differing([row for _, row in known], _along(axis))
        if keys:
            one_line.mixed.append(f"{label} ({', '.join(keys)})")
        return one_line

    # Rows that are the same except along the axis are a line of their own.
    alike: dict[str, list[tuple[float, Row]]] = {}
    for x, row in known:
        same = {key: value for key, value in row.config.items() if key not in _along(axis)}
        alike.setdefault(json.dumps(same, sort_keys=True), []).append((x, row))

    lines: list[Series] = []
    left: list[str] = []
    for of_line in alike.values():
        if _one_at_each_place(of_line) and len(of_line) > 1:
            # Such a line is named after its first row, as the label is that of several.
            _, first = min(of_line, key=lambda pair: pair[0])
            lines.append(_series(f"{label}, as {first.label}", of_line))
        else:
            left += [f"“{row.label}”" for _, row in of_line]
    if not left:
        return Points(lines)
    return Points(lines, [f"{label}: {', '.join(left)}"])


def _along(axis: str) -> tuple[str, ...]:
    """Settings in which points of a line may differ."""
    return ("seed", *_AXES[axis])


def _one_at_each_place(rows: Sequence[tuple[float, Row]]) -> bool:
    return len({x for x, _ in rows}) == len(rows)


def _series(label: str, rows: Sequence[tuple[float, Row]]) -> Series:
    ordered = sorted(rows, key=lambda pair: pair[0])
    values = [row.mean("ndcg@10") or 0.0 for _, row in ordered]
    return Series(label, [x for x, _ in ordered], values)
