"""Comma-separated raw files with a header and quoted texts -> Arrow tables, with the line of every row."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.bad_rows import BadRows, shorten
from torchrec_priors.preparation.typed import BYTE_ORDER_MARK, LINE, is_text, require_readable, typed

_BLOCK = 1 << 26  # bytes


def read_csv(file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows) -> pa.Table:
    """The named columns of a comma-separated file with a header and quoted texts, typed, plus `line`.

    Blank lines are skipped and count as lines. Whatever else the file holds, the same value is read the same way.

    Raises:
        UserError: a missing column; a value with a line break, whatever `bad_rows` says, as lines have no number then;
            otherwise as `read_table`.
    """
    require_readable(columns, "read_csv")
    data = file.read_bytes().removeprefix(BYTE_ORDER_MARK)
    header = _header(data[: _line_ends(data)[0]] if data else b"", columns, file)
    return _parsed(data, len(header), columns, file, bad_rows, 0)


def read_csv_blocks(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, block: int = _BLOCK
) -> Iterator[pa.Table]:
    """As `read_csv`, in tables of about `block` bytes of the file, so that memory does not grow with it."""
    require_readable(columns, "read_csv")
    with file.open("rb") as stream:
        first = stream.readline().removeprefix(BYTE_ORDER_MARK)  # all lines, where "\r" alone ends them
        header = _header(first[: _line_ends(first)[0]] if first else b"", columns, file)
        lines, rest = 0, first[len(header) :]
        while data := stream.read(block):
            data = rest + data
            whole = data.rfind(b"\n") + 1
            rest = data[whole:]
            if whole:
                yield _parsed(header + data[:whole], len(header), columns, file, bad_rows, lines)
                lines += len(_line_ends(data[:whole]))
        if rest or lines == 0:
            yield _parsed(header + rest, len(header), columns, file, bad_rows, lines)


def _header(line: bytes, columns: Mapping[str, pa.DataType], file: Path) -> bytes:
    """`line`, which names the columns."""
    if not line:
        raise UserError(f"{file} is empty")
    names = next(csv.reader([line.decode(errors="replace").rstrip("\r\n")]), [])
    for name in columns:
        if name not in names:
            raise UserError(f"{file} has no column {name} (it has {', '.join(names)})")
    return line


def _parsed(
    data: bytes, header: int, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows, lines: int
) -> pa.Table:
    """The rows of a header and the lines below it.

    Args:
        header: bytes of the header.
        lines: of the file that stand between the header and the rest of `data`.
    """
    if len(data) == header and not data.endswith((b"\n", b"\r")):
        data += b"\n"  # Arrow takes a lone header without an end for nothing
    ends = _line_ends(data)
    try:
        table, wrong = _as_text(data, list(columns)), list[_WrongRow]()
        numbers = np.arange(2, len(table) + 2)
    except pa.ArrowInvalid:  # a row of another number of fields, or a value that is no text
        table, numbers, wrong = _row_by_row(data, columns, file)
    if len(table) + len(wrong) + 1 != len(ends):
        raise _line_break(file)
    blank = _blank_lines(data, ends)
    wrong = [row for row in wrong if row.line not in blank]
    if wrong:
        at = pa.array([row.line + lines for row in wrong], pa.int64())
        bad_rows.handle(file, at, "wrong number of fields", wrong[0].example)
    if blank:
        filled = np.isin(numbers, list(blank), invert=True)
        table, numbers = table.filter(pa.array(filled)), numbers[filled]
    table = table.append_column(LINE, pa.array(numbers + lines))
    return typed(_utf8(table, columns, file, bad_rows), columns, file, bad_rows)


def _as_text(data: bytes, names: list[str], skip: Callable[[arrow_csv.InvalidRow], str] | None = None) -> pa.Table:
    """The columns of a comma-separated file untyped; where rows may be skipped, one thread keeps their numbers."""
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(use_threads=skip is None),
        parse_options=arrow_csv.ParseOptions(
            ignore_empty_lines=False,  # they count as lines
            newlines_in_values=True,  # otherwise they are seen or not by where a block ends
            invalid_row_handler=skip,
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=names, null_values=[]
        ),
    )


class _WrongRow(NamedTuple):
    """A row of another number of fields."""

    line: int
    example: str


def _row_by_row(
    data: bytes, columns: Mapping[str, pa.DataType], file: Path
) -> tuple[pa.Table, np.ndarray, list[_WrongRow]]:
    """(rows of the right number of fields, their lines, the other rows); values are bytes where the file is no UTF-8.

    Such a file is read as Latin-1, which any bytes are, because Arrow shows `skip` no row that is not UTF-8.
    """
    latin = not is_text(data, "utf8")
    names = [name.encode().decode("latin-1") if latin else name for name in columns]
    wrong: list[_WrongRow] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        text = row.text.encode("latin-1").decode(errors="backslashreplace") if latin else row.text
        fields = f"{row.actual_columns} fields where {row.expected_columns} are expected"
        wrong.append(_WrongRow(row.number, f"{fields}: {shorten(text)}"))
        return "skip"

    try:
        table = _as_text(data.decode("latin-1").encode() if latin else data, names, skip)
    except pa.ArrowInvalid as error:
        if b'"' in data:  # one that is never closed makes a row of any length
            raise _line_break(file) from error
        raise UserError(f"{file} cannot be read ({str(error).splitlines()[0]})") from error
    if latin:
        values = [[text.encode("latin-1") for text in column.to_pylist()] for column in table.columns]
        table = pa.table([pa.array(column, pa.binary()) for column in values], names=list(columns))
    numbers = np.arange(2, len(table) + len(wrong) + 2)
    return table, np.setdiff1d(numbers, [row.line for row in wrong]), wrong


def _utf8(table: pa.Table, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows) -> pa.Table:
    """Columns of bytes as text; rows that are not text are refused or counted."""
    if all(table[name].type == pa.string() for name in columns):
        return table
    rows = table.select(list(columns)).to_pylist()
    valid = [all(is_text(value, "utf8") for value in row.values()) for row in rows]
    if not all(valid):
        bad = table[LINE].filter(pa.array([not right for right in valid]))
        bad_rows.handle(file, bad, "not utf8 text", f"not utf8 text: {shorten(str(rows[valid.index(False)]))}")
        table = table.filter(pa.array(valid))
    return table.cast(pa.schema({**dict.fromkeys(columns, pa.string()), LINE: pa.int64()}))


def _line_ends(data: bytes) -> np.ndarray:
    r"""Where each line ends, past its "\n", "\r\n" or "\r"."""
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n")) + 1
    if b"\r" in data:
        returns = np.flatnonzero(codes == ord("\r")) + 1
        ends = np.union1d(ends, returns[(returns == len(codes)) | (codes[returns % len(codes)] != ord("\n"))])
    return ends if len(ends) and ends[-1] == len(codes) else np.append(ends, len(codes))


def _blank_lines(data: bytes, ends: np.ndarray) -> set[int]:
    """Numbers of the lines that hold nothing but blanks."""
    starts = np.concatenate([[0], ends[:-1]])
    likely = np.flatnonzero(np.isin(np.frombuffer(data, np.uint8)[starts], list(b" \t\r\n")))
    return {int(line) + 1 for line in likely if not data[starts[line] : ends[line]].strip()}


def _line_break(file: Path) -> UserError:
    """Names the first line that does not end its row."""
    last, found = 0, False
    with file.open(encoding="latin-1", newline="") as lines:
        rows = csv.reader(lines)
        try:
            while not found and next(rows, None) is not None:
                found = rows.line_num > last + 1
                last = last if found else rows.line_num
        except csv.Error:
            found = True  # the value is longer than any: its quote is not closed
    line = f", line {last + 1}" if found else ""
    return UserError(f"{file}{line}: a value with a line break, or a quote that is not closed: replace it")
