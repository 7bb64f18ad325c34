r"""Finds the ends of the rows of a comma-separated file.

A quoted value may hold line ends ("\n", "\r\n" or "\r"), so not every line is a row.
"""

import re
from dataclasses import dataclass

import numpy as np

_QUOTE = ord('"')
_QUOTED = rb'"(?:[^"]|"")*+"'
# Fields as Arrow reads them: a quote at the beginning of a field opens it, any other is a
# character. Matches a line that ends inside of a quoted field.
_OPENS = re.compile(rb"(?:(?:" + _QUOTED + rb'[^,]*+|[^",][^,]*+|),)*+"(?:[^"]|"")*+\Z')
# Fields as the format has them: quotes only around a field, or doubled inside of one that has
# quotes around it.
_FIELD = rb"(?:" + _QUOTED + rb'|[^",\r\n]*+)'
_STRICT = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+[\r\n]*\Z")


@dataclass(frozen=True)
class Rows:
    """The rows of some bytes of a file, which begin with a row.

    Attributes:
        ends: int64, offset of the end of each row.
        lines: int64, number of the line that each row begins with, 1-based.
        several: indices of the rows that have several lines.
        open: (offset of its beginning, number of its first line) of a last row with a quote that
            is not closed, which is not one of the rows; None if all quotes are closed.
    """

    ends: np.ndarray
    lines: np.ndarray
    several: np.ndarray
    open: tuple[int, int] | None

    def start(self, row: int) -> int:
        """The offset of the beginning of a row."""
        if row == 0:
            return 0
        return int(self.ends[row - 1])


def rows_of(data: bytes) -> Rows:
    """The rows of comma-separated lines.

    A row of several lines has its quotes in the right places, or `is_strict` is false for it.
    """
    ends = line_ends(data)
    inner, open_line = _inside_values(data, ends)
    last = len(ends)
    if open_line is not None:
        last = open_line

    # A row begins with the first line and after every line end that is outside of values.
    begins = np.flatnonzero(np.concatenate([[True], ~inner[: last - 1]])[:last])
    following = np.append(begins[1:], last)
    unclosed = None
    if open_line is not None:
        before = int(ends[last - 1]) if last else 0
        unclosed = (before, open_line + 1)

    return Rows(
        ends=ends[:last][~inner[:last]],
        lines=begins + 1,
        several=np.flatnonzero(following - begins > 1),
        open=unclosed,
    )


def is_strict(row: bytes) -> bool:
    """Whether every quote of a row opens a field, closes one, or is doubled inside of one."""
    return _STRICT.match(row) is not None


def line_ends(data: bytes) -> np.ndarray:
    r"""The offset of the end of each line, after its "\n", "\r\n" or "\r"."""
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n")) + 1
    if b"\r" in data:
        returns = np.flatnonzero(codes == ord("\r")) + 1
        # Of "\r\n" only the line feed counts. The modulo keeps the index of a last "\r" in range.
        ends = np.union1d(
            ends, returns[(returns == len(codes)) | (codes[returns % len(codes)] != ord("\n"))]
        )

    if len(ends) and ends[-1] == len(codes):
        return ends
    # The last line has no line end.
    return np.append(ends, len(codes))


def _inside_values(data: bytes, ends: np.ndarray) -> tuple[np.ndarray, int | None]:
    """(bool, which line ends are inside of a value; 0-based line of a quote that never closes)."""
    inner = np.zeros(len(ends), bool)
    if b'"' not in data:
        return inner, None

    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
    quotes_per_line = np.diff(np.searchsorted(quotes, ends), prepend=0)
    starts = np.concatenate([[0], ends[:-1]])

    # A line with an even number of quotes leaves a value open, or closed, as it was.
    opened = None
    for line in np.flatnonzero(quotes_per_line % 2).tolist():
        if opened is not None:
            inner[opened:line] = True
            opened = None
        elif _OPENS.match(data[starts[line] : ends[line]].rstrip(b"\r\n")):
            opened = line
    return inner, opened
