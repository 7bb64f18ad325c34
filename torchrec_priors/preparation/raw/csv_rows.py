r"""Where the rows of a comma-separated file end, as a value in quotes may hold line ends ("\n", "\r\n" or "\r")."""

import re
from dataclasses import dataclass

import numpy as np

_QUOTE = ord('"')
_QUOTED = rb'"(?:[^"]|"")*+"'
# as Arrow reads fields: a quote at the beginning of one opens it, any other is a character
_OPENS = re.compile(rb"(?:(?:" + _QUOTED + rb'[^,]*+|[^",][^,]*+|),)*+"(?:[^"]|"")*+\Z')
_FIELD = rb"(?:" + _QUOTED + rb'|[^",\r\n]*+)'
_STRICT = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+[\r\n]*\Z")


@dataclass(frozen=True)
class Rows:
    """The rows of some bytes of a file, which begin where one begins.

    Attributes:
        ends: int64, past the end of each row.
        lines: int64, number of the line that each row begins with, 1-based.
        several: places of the rows that have several lines.
        open: what begins with a quote that is not closed, which is none of the rows: the bytes before it and the number
            of its first line; None where there is nothing.
    """

    ends: np.ndarray
    lines: np.ndarray
    several: np.ndarray
    open: tuple[int, int] | None

    def start(self, row: int) -> int:
        """Bytes before a row."""
        return int(self.ends[row - 1]) if row else 0


def rows_of(data: bytes) -> Rows:
    """The rows of comma-separated lines; those of several lines have their quotes where they must be, or `is_strict`
    tells that they have not."""
    ends = line_ends(data)
    inner, open_line = _inside_values(data, ends)
    last = len(ends) if open_line is None else open_line
    begins = np.flatnonzero(np.concatenate([[True], ~inner[: last - 1]])[:last])
    following = np.append(begins[1:], last)
    before = int(ends[last - 1]) if last else 0
    return Rows(
        ends=ends[:last][~inner[:last]],
        lines=begins + 1,
        several=np.flatnonzero(following - begins > 1),
        open=None if open_line is None else (before, open_line + 1),
    )


def _inside_values(data: bytes, ends: np.ndarray) -> tuple[np.ndarray, int | None]:
    """(bool, which line ends are inside of a value; the line, 0-based, with a quote that is never closed)."""
    inner = np.zeros(len(ends), bool)
    opened = None
    if b'"' not in data:
        return inner, None
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
    count = np.diff(np.searchsorted(quotes, ends), prepend=0)
    starts = np.concatenate([[0], ends[:-1]])
    for line in np.flatnonzero(
        count % 2
    ).tolist():  # others leave a value open, or closed, as it was
        if opened is not None:
            inner[opened:line] = True
            opened = None
        elif _OPENS.match(data[starts[line] : ends[line]].rstrip(b"\r\n")):
            opened = line
    return inner, opened


def is_strict(row: bytes) -> bool:
    """Whether every quote of a row opens a field, closes one, or is doubled inside of one."""
    return _STRICT.match(row) is not None


def line_ends(data: bytes) -> np.ndarray:
    r"""Where each line ends, past its "\n", "\r\n" or "\r"."""
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n")) + 1
    if b"\r" in data:
        returns = np.flatnonzero(codes == ord("\r")) + 1
        ends = np.union1d(
            ends, returns[(returns == len(codes)) | (codes[returns % len(codes)] != ord("\n"))]
        )
    return ends if len(ends) and ends[-1] == len(codes) else np.append(ends, len(codes))
