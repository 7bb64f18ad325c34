"""What a figure shows, apart from how it is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torchrec_priors.report.page_table import Line, Table

_POINTS = 12  # of a curve, in the table of its numbers


@dataclass(frozen=True)
class Series:
    """A line, or a set of bars, of one colour.

    Attributes:
        low, high: bounds of an interval around each y; empty where there are none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass
class Panel:
    """One pair of axes.

    Attributes:
        ticks: names of the places on the x axis, where these are 0, 1, 2, ...
        style: `dots` are points beside one another at each place, with their intervals.
        log_x: whether x is on a logarithmic axis, with a tick at each value.
        zero: whether a line at y = 0 is drawn.
    """

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    ticks: list[str] = field(default_factory=list)
    style: Literal["lines", "points", "dots"] = "points"
    log_x: bool = False
    zero: bool = False

    def text(self) -> str:
        """For those who do not see it."""
        said = f"{self.y_label} against {self.x_label}. "
        parts = []
        for one in self.series:
            if not len(one.y):
                continue
            if self.ticks:
                parts.append(
                    f"{one.label}: "
                    + ", ".join(f"{self.ticks[int(x)]} {y:.4g}" for x, y in _both(one))
                )
            elif len(one.y) <= _POINTS:
                parts.append(
                    f"{one.label}: " + ", ".join(f"{y:.4g} at {x:g}" for x, y in _both(one))
                )
            else:
                parts.append(
                    f"{one.label}: from {one.y[0]:.4g} to {one.y[-1]:.4g}, "
                    f"between {min(one.y):.4g} and {max(one.y):.4g}"
                )
        return said + "; ".join(parts) + "."

    def table(self, key: str) -> Table:
        """Its numbers; of a curve some of them."""
        lines = []
        for one in self.series:
            points = list(zip(one.x, one.y, one.low or one.y, one.high or one.y, strict=True))
            for x, y, low, high in points[:: max(1, len(points) // _POINTS)]:
                cells = [one.label, self.ticks[int(x)] if self.ticks else f"{x:g}", f"{y:.4g}"]
                lines.append(
                    Line([*cells, f"{low:.4g} to {high:.4g}"] if self._intervals else cells)
                )
        head = ["", self.x_label, self.y_label, *(["interval"] if self._intervals else [])]
        return Table(key, self.title, head, lines)

    @property
    def _intervals(self) -> bool:
        return any(len(one.low) for one in self.series)


@dataclass
class Figure:
    """
    Attributes:
        costs: of each point.
    """

    key: str
    title: str
    caption: str
    panels: list[Panel]
    costs: Table | None = None


def _both(one: Series) -> list[tuple[float, float]]:
    return list(zip(one.x, one.y, strict=True))
