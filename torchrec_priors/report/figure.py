"""The content of a figure; `draw` draws it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torchrec_priors.report.page_table import Line, Table

# The table lists only some points of a longer curve, and the text only summarises the curve.
_POINTS = 12


@dataclass(frozen=True)
class Series:
    """A line or a set of points in one colour.

    Attributes:
        low, high: the bounds of an interval around each y; empty if there are no intervals.
        x_low, x_high: the bounds of an interval around each x; empty if there are no intervals.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    x_low: Sequence[float] = ()
    x_high: Sequence[float] = ()


@dataclass
class Panel:
    """One pair of axes.

    Attributes:
        ticks: the names of the places 0, 1, 2, ... on the x axis; empty if x is a number.
        style: "dots" draws the series next to each other at each place, with intervals. "scatter"
            has intervals of both numbers, and the name of each series at its point.
        log_x: whether x is on a logarithmic axis, with a tick at each value.
        zero: whether a line at y = 0 is drawn.
    """

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    ticks: list[str] = field(default_factory=list)
    style: Literal["lines", "points", "dots", "scatter"] = "points"
    log_x: bool = False
    zero: bool = False

    def text(self) -> str:
        """Describes the panel in words, for readers who cannot see it."""
        lines = [self._in_words(series) for series in self.series if len(series.y)]
        return f"{self.y_label} against {self.x_label}. {'; '.join(lines)}."

    def table(self, key: str) -> Table:
        """Makes a table of the panel's numbers; a long curve gives only some of them."""
        intervals = any(len(series.low) for series in self.series)
        x_intervals = any(len(series.x_low) for series in self.series)
        head = ["", self.x_label, self.y_label]
        if intervals:
            head.append("interval")
        if x_intervals:
            head[2:2] = ["interval"]

        lines = []
        for series in self.series:
            # Without intervals the bounds are not shown.
            low_values = series.low or series.y
            high_values = series.high or series.y
            points = list(zip(series.x, series.y, low_values, high_values, strict=True))
            for x, y, low, high in points[:: max(1, len(points) // _POINTS)]:
                cells = [series.label, self._place(x), f"{y:.4g}"]
                if intervals:
                    cells.append(f"{low:.4g} to {high:.4g}")
                if x_intervals:
                    # Series with such intervals have one point.
                    x_low = series.x_low[0] if len(series.x_low) else x
                    x_high = series.x_high[0] if len(series.x_high) else x
                    cells[2:2] = [f"{x_low:.4g} to {x_high:.4g}"]
                lines.append(Line(cells))
        return Table(key, self.title, head, lines)

    def _in_words(self, series: Series) -> str:
        """Writes the points of a series; for a long curve its ends and its range."""
        points = list(zip(series.x, series.y, strict=True))
        if self.ticks:
            values = ", ".join(f"{self._place(x)} {y:.4g}" for x, y in points)
        elif len(points) <= _POINTS:
            values = ", ".join(f"{y:.4g} at {x:g}" for x, y in points)
        else:
            values = (
                f"from {series.y[0]:.4g} to {series.y[-1]:.4g}, "
                f"between {min(series.y):.4g} and {max(series.y):.4g}"
            )
        return f"{series.label}: {values}"

    def _place(self, x: float) -> str:
        """Writes a place on the x axis."""
        return self.ticks[int(x)] if self.ticks else f"{x:g}"


@dataclass
class Figure:
    """Panels under one title.

    Attributes:
        costs: a table of what each point costs.
    """

    key: str
    title: str
    caption: str
    panels: list[Panel]
    costs: Table | None = None
