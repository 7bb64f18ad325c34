"""Tables of the page, and functions that write numbers for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_priors.experiments.statistics import Interval, mean_and_deviation

_MISSING = "–"


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        cells: the texts of the cells; the first is the row's header.
        kind: "", "paper" for the paper's numbers, "reference" for the reference row, "winner" for
            the most accurate row, or "reference winner".
    """

    cells: Sequence[str]
    kind: str = ""


@dataclass
class Table:
    """A table with its title.

    Attributes:
        key: the table's id in the page.
        head: the titles of the columns.
        notes: the lines under the table.
    """

    key: str
    title: str
    head: list[str]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lacking:
    """A table or figure that these runs cannot fill, and the runs that it needs."""

    title: str
    needs: str


def percent(value: float | None, digits: int = 2) -> str:
    """Writes a share in percent, without the sign, as the paper writes recall and ndcg.

    >>> percent(0.01906)
    '1.91'
    """
    if value is None:
        return _MISSING
    return f"{100 * value:.{digits}f}"


def relative(value: float | None) -> str:
    """Writes a relative difference in percent, with plus or minus.

    >>> relative(-0.0123)
    '−1.23 %'
    """
    if value is None:
        return _MISSING
    # A real minus sign, which is as wide as the plus.
    return f"{100 * value:+.2f} %".replace("-", "−")


def plain(value: float | None, digits: int = 4) -> str:
    """Writes a number with a fixed number of decimals."""
    if value is None:
        return _MISSING
    return f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """Writes a whole number with commas between thousands."""
    if value is None:
        return _MISSING
    return f"{value:,}"


def over_seeds(values: Sequence[float], digits: int = 4) -> str:
    """Writes the mean of the seeds' values, with the standard deviation of several seeds."""
    if not values:
        return _MISSING
    mean, deviation = mean_and_deviation(values)
    if deviation is None:
        return plain(mean, digits)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def signed(interval: Interval, digits: int = 4) -> str:
    """Writes a difference with its interval.

    >>> signed(Interval(0.00712, -0.00001, 0.012))
    '+0.0071 [−0.0000, +0.0120]'
    >>> signed(Interval(-0.00001, -0.01, 0.012))
    '0.0000 [−0.0100, +0.0120]'
    """
    # Verdicts depend on the signs of the bounds, so bounds that round to 0 keep their sign. A mean
    # that rounds to 0 loses its sign.
    mean = f"{interval.mean:+.{digits}f}"
    if not float(mean):
        mean = mean[1:]
    text = f"{mean} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return text.replace("-", "−")


def seconds(value: float | None) -> str:
    """Writes a time in seconds or milliseconds.

    >>> seconds(0.0123)
    '12.3 ms'
    """
    if value is None:
        return _MISSING
    if value >= 10:
        return f"{value:.1f} s"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.1f} ms"
