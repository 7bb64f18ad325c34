"""Comma-separated raw files with a header and quoted texts -> Arrow tables, with the line of every row."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_rows import Rows, is_strict, line_ends, rows_of
from torchrec_priors.preparation.raw.typed import (
    BYTE_ORDER_MARK,
    LINE,
    is_text,
    require_readable,
    typed,
)

_BLOCK = 1 << 26  # bytes
_ARROW_BLOCK = 1 << 20
_LONGEST_ROW = 1 << 24  # a quote that closes no earlier was not meant to


def read_csv(file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows) -> pa.Table:
    """The named columns of a comma-separated file with a header and quoted texts, typed, plus `line`.

    Blank lines are skipped and count as lines; `line` is the first one of a row that has several. Whatever else the
    file holds, the same value is read the same way: columns that are not read may hold anything.

    Raises:
        UserError: a missing column; a quote that is not closed, whatever `bad_rows` says, as it is not known then where
            rows end; a line break in a value that is read, where `bad_rows` refuses; otherwise as `read_table`.
    """
    require_readable(columns, "read_csv")
    data = file.read_bytes().removeprefix(BYTE_ORDER_MARK)
    header = _header(_first_row(data), columns, file)
    return _parsed(data, len(header), columns, file, bad_rows, 0)


def read_csv_blocks(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, block: int = _BLOCK
) -> Iterator[pa.Table]:
    """As `read_csv`, in tables of about `block` bytes of the file, so that memory does not grow with it."""
    require_readable(columns, "read_csv")
    with file.open("rb") as stream:
        first = stream.readline().removeprefix(
            BYTE_ORDER_MARK
        )  # all lines, where "\r" alone ends them
        while b'"' in first and rows_of(first).open and (more := stream.readline()):
            first += more
        header = _header(_first_row(first), columns, file)
        lines = 0
        rest = first[len(header) :]
        while data := stream.read(block):
            data = rest + data
            whole = _whole_rows(data)
            rest = data[whole:]
            if whole:
                yield _parsed(header + data[:whole], len(header), columns, file, bad_rows, lines)
                lines += len(line_ends(data[:whole]))
            if b'"' in rest and len(rest) > _LONGEST_ROW:
                raise _wrong_quote(file, lines + len(line_ends(header)) + 1)
        if rest or lines == 0:
            yield _parsed(header + rest, len(header), columns, file, bad_rows, lines)


def _first_row(data: bytes) -> bytes:
    line = data[: line_ends(data)[0]] if data else b""
    if b'"' not in line:
        return line
    rows = rows_of(data)
    return data[: rows.ends[0]] if len(rows.ends) else data


def _whole_rows(data: bytes) -> int:
    """Bytes of the rows that end in some bytes of a file, with a line feed."""
    lines = data.rfind(b"\n") + 1
    if not lines or b'"' not in data[:lines]:
        return lines
    found = rows_of(data[:lines]).open
    return lines if found is None else found[0]


def _header(line: bytes, columns: Mapping[str, pa.DataType], file: Path) -> bytes:
    """`line`, which names the columns."""
    if not line:
        raise UserError(f"{file} is empty")
    names = next(
        csv.reader(line.decode(errors="replace").rstrip("\r\n").splitlines(keepends=True)), []
    )
    for name in columns:
        if name not in names:
            raise UserError(f"{file} has no column {name} (it has {', '.join(names)})")
        if names.count(name) > 1:
            raise UserError(f"{file} has {names.count(name)} columns {name}: rename all but one")
    return line


def _parsed(
    data: bytes,
    header: int,
    columns: Mapping[str, pa.DataType],
    file: Path,
    bad_rows: BadRows,
    lines: int,
) -> pa.Table:
    """The rows of a header and the lines below it.

    Args:
        header: bytes of the header.
        lines: of the file that stand between the header and the rest of `data`.
    """
    if len(data) == header and not data.endswith((b"\n", b"\r")):
        data += b"\n"  # Arrow takes a lone header without an end for nothing
    rows = rows_of(data)
    _require_closed(data, rows, file, lines)
    longest = int(np.diff(rows.ends, prepend=0).max())
    try:
        table = _as_text(data, list(columns), longest)
        wrong = list[_WrongRow]()
        places = np.arange(1, len(table) + 1)
    except pa.ArrowInvalid:  # a row of another number of fields, or a value that is no text
        table, places, wrong = _row_by_row(data, columns, file, longest)
    if len(table) + len(wrong) + 1 != len(rows.ends):
        raise _wrong_quote(file, _first_wrong_quote(data, rows, lines))
    blank = _blank_rows(data, rows)
    wrong = [row for row in wrong if row.place not in blank]
    if wrong:
        at = pa.array(rows.lines[[row.place for row in wrong]] + lines, pa.int64())
        bad_rows.handle(file, at, "wrong number of fields", wrong[0].example)
    if blank:
        filled = np.isin(places, list(blank), invert=True)
        table = table.filter(pa.array(filled))
        places = places[filled]
    table = table.append_column(LINE, pa.array(rows.lines[places] + lines))
    table = _utf8(table, columns, file, bad_rows)
    return typed(
        _on_a_line(table, columns, file, bad_rows) if len(rows.several) else table,
        columns,
        file,
        bad_rows,
    )


def _as_text(
    data: bytes,
    names: list[str],
    longest: int,
    skip: Callable[[arrow_csv.InvalidRow], str] | None = None,
) -> pa.Table:
    """The columns of a comma-separated file untyped; where rows may be skipped, one thread keeps their numbers.

    Args:
        longest: bytes of a row.
    """
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(
            use_threads=skip is None, block_size=max(_ARROW_BLOCK, 2 * longest)
        ),
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
    """A row of another number of fields; its place, of which 0 is the header."""

    place: int
    example: str


def _row_by_row(
    data: bytes, columns: Mapping[str, pa.DataType], file: Path, longest: int
) -> tuple[pa.Table, np.ndarray, list[_WrongRow]]:
    """(rows of the right number of fields, their places, the other rows); values are bytes where the file is no UTF-8.

    Such a file is read as Latin-1, which any bytes are, because Arrow shows `skip` no row that is not UTF-8.
    """
    latin = not is_text(data, "utf8")
    names = [name.encode().decode("latin-1") if latin else name for name in columns]
    wrong: list[_WrongRow] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        text = row.text.encode("latin-1").decode(errors="backslashreplace") if latin else row.text
        fields = f"{row.actual_columns} fields where {row.expected_columns} are expected"
        wrong.append(_WrongRow(row.number - 1, f"{fields}: {shown(text)}"))
        return "skip"

    try:
        table = _as_text(
            data.decode("latin-1").encode() if latin else data, names, 2 * longest, skip
        )
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} cannot be read ({str(error).splitlines()[0]})") from error
    if latin:
        values = [
            [text.encode("latin-1") for text in column.to_pylist()] for column in table.columns
        ]
        table = pa.table([pa.array(column, pa.binary()) for column in values], names=list(columns))
    places = np.arange(1, len(table) + len(wrong) + 1)
    return table, np.setdiff1d(places, [row.place for row in wrong]), wrong


def _utf8(
    table: pa.Table, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows
) -> pa.Table:
    """Columns of bytes as text; rows that are not text are refused or counted."""
    if all(table[name].type == pa.string() for name in columns):
        return table
    rows = table.select(list(columns)).to_pylist()
    valid = [all(is_text(value, "utf8") for value in row.values()) for row in rows]
    if not all(valid):
        bad = table[LINE].filter(pa.array([not right for right in valid]))
        bad_rows.handle(
            file, bad, "not utf8 text", f"not utf8 text: {shown(str(rows[valid.index(False)]))}"
        )
        table = table.filter(pa.array(valid))
    return table.cast(pa.schema({**dict.fromkeys(columns, pa.string()), LINE: pa.int64()}))


def _on_a_line(
    table: pa.Table, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows
) -> pa.Table:
    """Rows without line breaks in the columns that are read; the others are refused or counted."""
    for name in columns:
        broken = pc.match_substring_regex(table[name], r"[\r\n]")
        if pc.any(broken, min_count=0).as_py():
            example = f"{name} has a line break: {shown(table[name].filter(broken)[0].as_py())}"
            bad_rows.handle(file, table[LINE].filter(broken), f"{name} has a line break", example)
            table = table.filter(pc.invert(broken))
    return table


def _first_wrong_quote(data: bytes, rows: Rows, lines: int) -> int | None:
    """The line of the first row with a quote where none may be."""
    for row in range(len(rows.ends)):
        text = data[rows.start(row) : rows.ends[row]]
        if b'"' in text and not is_strict(text):
            return lines + int(rows.lines[row])
    return None


def _blank_rows(data: bytes, rows: Rows) -> set[int]:
    """Places of the rows that hold nothing but blanks."""
    starts = np.concatenate([[0], rows.ends[:-1]])
    likely = np.flatnonzero(np.isin(np.frombuffer(data, np.uint8)[starts], list(b" \t\r\n")))
    return {int(row) for row in likely if not data[starts[row] : rows.ends[row]].strip()}


def _require_closed(data: bytes, rows: Rows, file: Path, lines: int) -> None:
    """Raises UserError where a quote is not closed, or stands where it makes one row of several."""
    if rows.open is not None:
        raise _wrong_quote(file, lines + rows.open[1])
    for row in rows.several.tolist():
        if not is_strict(data[rows.start(row) : rows.ends[row]]):
            raise _wrong_quote(file, lines + int(rows.lines[row]))


def _wrong_quote(file: Path, line: int | None) -> UserError:
    where = file if line is None else f"{file}, line {line}"
    return UserError(
        f"{where}: a quote that is not closed, or not doubled inside of a value: correct it"
    )
