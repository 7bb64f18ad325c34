"""Tables as the page shows them, and how numbers are written in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_priors.experiment.statistics import Interval, mean_and_deviation


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        cells: the first is the row's header.
        kind: "", "paper" for figures of the paper, or "reference".
    """

    cells: Sequence[str]
    kind: str = ""


@dataclass
class Table:
    """
    Attributes:
        key: of its place in the page.
        head: of the columns.
        notes: under the table.
    """

    key: str
    title: str
    head: list[str]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lacking:
    """A table or figure that these runs do not fill, and what it needs."""

    title: str
    needs: str


def percent(value: float | None, digits: int = 2) -> str:
    """As the paper writes recall and ndcg.

    >>> percent(0.01906)
    '1.91'
    """
    return "–" if value is None else f"{100 * value:.{digits}f}"


def relative(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f} %".replace("-", "−")


def plain(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def over_seeds(values: Sequence[float], digits: int = 4) -> str:
    if not values:
        return "–"
    mean, deviation = mean_and_deviation(values)
    return (
        plain(mean, digits) if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"
    )


def signed(interval: Interval, digits: int = 4) -> str:
    """
    >>> signed(Interval(0.00712, -0.00001, 0.012))
    '+0.0071 [−0.0000, +0.0120]'
    >>> signed(Interval(-0.00001, -0.01, 0.012))
    '0.0000 [−0.0100, +0.0120]'
    """
    mean = f"{interval.mean:+.{digits}f}"
    mean = (
        mean if float(mean) else mean[1:]
    )  # bounds that round to 0 keep their sign, on which verdicts rest
    return f"{mean} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]".replace("-", "−")


def seconds(value: float | None) -> str:
    """
    >>> seconds(0.0123)
    '12.3 ms'
    """
    if value is None:
        return "–"
    return (
        f"{value:.1f} s"
        if value >= 10
        else f"{value:.2f} s"
        if value >= 1
        else f"{value * 1000:.1f} ms"
    )
