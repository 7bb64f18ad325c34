r"""Finds the ends of the rows of a delimited file, such as a comma-separated one.

A quoted value may contain line ends ("\n", "\r\n" or "\r"), so a row may span several lines.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

_QUOTE = ord('"')
_QUOTED = rb'"(?:[^"]|"")*+"'


@cache
def _patterns(delimiter: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Returns two patterns for rows with this delimiter.

    The first matches a line that ends inside a quoted field. As in Arrow, a quote at the beginning
    of a field opens a quoted value, and all other quotes are ordinary characters. The second
    matches a row in which quotes are used according to the CSV format: only around a whole field,
    and doubled inside a field that has quotes around it.
    """
    mark = re.escape(delimiter.encode())
    opens = rb"(?:(?:" + _QUOTED + rb"[^" + mark + rb']*+|[^"' + mark + rb"][^" + mark + rb"]*+|)"
    opens += mark + rb')*+"(?:[^"]|"")*+\Z'
    field = rb"(?:" + _QUOTED + rb'|[^"' + mark + rb"\r\n]*+)"
    strict = field + rb"(?:" + mark + field + rb")*+[\r\n]*\Z"
    return re.compile(opens), re.compile(strict)


@dataclass(frozen=True)
class Rows:
    """The rows in a block of bytes of a file. The block begins with a row.

    Attributes:
        ends: the offset of the end of each row, int64.
        lines: the 1-based number of the first line of each row, int64.
        several: the indices of the rows that span several lines.
        open: if the last row has a quote that is not closed, the offset and the 1-based line number
            at which this row begins. The row is then not in the other attributes. None if all
            quotes are closed.
    """

    ends: np.ndarray
    lines: np.ndarray
    several: np.ndarray
    open: tuple[int, int] | None

    def start(self, row: int) -> int:
        """Returns the offset of the beginning of a row."""
        if row == 0:
            return 0
        return int(self.ends[row - 1])


def rows_of(data: bytes, delimiter: str = ",") -> Rows:
    """Finds the rows in lines of delimited values.

    If a row spans several lines because a quote is in the wrong place, `is_strict` is false for it.
    """
    ends = line_ends(data)
    inner, open_line = _inside_values(data, ends, delimiter)
    last = len(ends)
    if open_line is not None:
        last = open_line

    # The first line begins a row, and so does every line after a line end outside of values.
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


def is_strict(row: bytes, delimiter: str = ",") -> bool:
    """Returns whether every quote of a row opens or closes a field, or is doubled inside one."""
    return _patterns(delimiter)[1].match(row) is not None


def line_ends(data: bytes) -> np.ndarray:
    r"""Returns the offset of the end of each line, after its "\n", "\r\n" or "\r"."""
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n")) + 1
    if b"\r" in data:
        returns = np.flatnonzero(codes == ord("\r")) + 1
        # In "\r\n", only the line feed counts as a line end. The modulo keeps the index in range if
        # the last byte is "\r".
        ends = np.union1d(
            ends, returns[(returns == len(codes)) | (codes[returns % len(codes)] != ord("\n"))]
        )

    if len(ends) and ends[-1] == len(codes):
        return ends
    # The last line has no line end.
    return np.append(ends, len(codes))


def _inside_values(data: bytes, ends: np.ndarray, delimiter: str) -> tuple[np.ndarray, int | None]:
    """Finds the line ends that are inside values.

    Returns:
        For each line end, whether it is inside a value, bool; and the 0-based number of the line
        with a quote that is never closed, or None.
    """
    inner = np.zeros(len(ends), bool)
    if b'"' not in data:
        return inner, None

    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
    quotes_per_line = np.diff(np.searchsorted(quotes, ends), prepend=0)
    starts = np.concatenate([[0], ends[:-1]])

    opens = _patterns(delimiter)[0]
    # Only lines with an odd number of quotes can open or close a value.
    opened = None
    for line in np.flatnonzero(quotes_per_line % 2).tolist():
        if opened is not None:
            inner[opened:line] = True
            opened = None
        elif opens.match(data[starts[line] : ends[line]].rstrip(b"\r\n")):
            opened = line
    return inner, opened
