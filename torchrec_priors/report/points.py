"""Points of a line. If a place on the axis has several models, none of them is picked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_priors.report.figure import Series
from torchrec_priors.report.sections import Row, differing

_SIZE = ("model.size", "model.dim", "encoder.layers", "encoder.heads")
_AXES = {"context": ("model.context",), "size": _SIZE, "segments": ("priors.tree", "model.horizon")}


@dataclass
class Points:
    """The points of some lines, with remarks on them.

    Attributes:
        lines: the lines that are drawn.
        left: names of rows that are left out because several are at one place.
        mixed: names of lines with points that also differ in settings other than the axis.
    """

    lines: list[Series] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    def add(self, more: "Points", of: str = "") -> None:
        """Adds the lines of another panel, called `of`, or another line of the same panel."""
        before = ""
        if of:
            before = f"{of}, "
        self.lines += more.lines
        self.left += [before + text for text in more.left]
        self.mixed += [before + text for text in more.mixed]

    def remarks(self) -> str:
        """Writes sentences for a caption: rows left out, and lines that mix other settings."""
        text = ""
        if self.left:
            text += f" Not drawn, because several rows have the same place: {'; '.join(self.left)}."
        if self.mixed:
            text += f" Points that differ in more than the axis: {'; '.join(self.mixed)}."
        return text


def points(label: str, axis: str, rows: Sequence[tuple[float, Row]]) -> Points:
    """Draws the ndcg@10 of rows over their places on an axis.

    If several rows are at one place, the rows are divided into lines that differ only along the
    axis. A line that still has several rows at a place is not drawn, because choosing one of them
    would mean selecting models on the split that is shown. A line with only one place is not drawn
    either.

    Args:
        axis: a key of `_AXES`, the settings that determine the place.
        rows: pairs of a place on the axis and a row.
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

    # Rows that differ only along the axis form a line.
    alike: dict[str, list[tuple[float, Row]]] = {}
    for x, row in known:
        shared = {key: value for key, value in row.config.items() if key not in _along(axis)}
        alike.setdefault(json.dumps(shared, sort_keys=True), []).append((x, row))

    lines: list[Series] = []
    left: list[str] = []
    for line_rows in alike.values():
        if _one_at_each_place(line_rows) and len(line_rows) > 1:
            # Several lines share the label, so the name of the first row is added.
            _, first = min(line_rows, key=lambda pair: pair[0])
            lines.append(_series(f"{label}, as {first.label}", line_rows))
        else:
            left += [f"“{row.label}”" for _, row in line_rows]
    if not left:
        return Points(lines)
    return Points(lines, [f"{label}: {', '.join(left)}"])


def _along(axis: str) -> tuple[str, ...]:
    """Returns the settings in which the points of a line may differ."""
    return ("seed", *_AXES[axis])


def _one_at_each_place(rows: Sequence[tuple[float, Row]]) -> bool:
    """Whether no place has several rows."""
    return len({x for x, _ in rows}) == len(rows)


def _series(label: str, rows: Sequence[tuple[float, Row]]) -> Series:
    """Returns the line through some rows, from left to right."""
    ordered = sorted(rows, key=lambda pair: pair[0])
    values = [row.mean("ndcg@10") or 0.0 for _, row in ordered]
    low, high = range_over_seeds([row.values("ndcg@10") for _, row in ordered])
    return Series(label, [x for x, _ in ordered], values, low, high)


def range_over_seeds(values: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Returns the lowest and the highest value of each place; nothing if all have one seed.

    Args:
        values: for each place, the values of all seeds.
    """
    if max(map(len, values), default=0) < 2:
        return [], []
    return [min(of_seeds) for of_seeds in values], [max(of_seeds) for of_seeds in values]
