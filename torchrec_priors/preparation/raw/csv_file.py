"""Reads CSV files with a header as Arrow tables with line numbers."""

import csv
from collections.abc import Callable, Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_form import CsvForm, opened
from torchrec_priors.preparation.raw.csv_rows import Rows, is_strict, line_ends, rows_of
from torchrec_priors.preparation.raw.typed import (
    BYTE_ORDER_MARK,
    LINE,
    is_text,
    require_readable,
    typed,
)

# The number of bytes of a file that are read at a time, and the minimum size of Arrow's blocks.
_BLOCK = 1 << 26
_ARROW_BLOCK = 1 << 20
# A quoted value that does not end within this number of bytes is treated as a mistake.
_LONGEST_ROW = 1 << 24


def read_csv(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, form: CsvForm = CsvForm()
) -> pa.Table:
    """Reads typed columns of a CSV file with a header, and adds the column `line`.

    `line` is the line number of a row, or of its first line if the row has several. Blank lines are
    skipped, but count as lines. Columns that are not requested may contain anything, and never
    change how the other columns are read.

    Raises:
        UserError: a column is missing, a quote is not closed, or `bad_rows` rejects a row. A quote
            that is not closed is always an error, because it is then unknown where rows end. A row
            is bad for the same reasons as in `read_table`, or if it has a line break in a requested
            column.
    """
    require_readable(columns, "read_csv")
    with opened(file) as stream:
        data = stream.read().removeprefix(BYTE_ORDER_MARK)
    header = _header(_first_row(data, form), columns, file, form)
    return _parsed(data, len(header), columns, file, bad_rows, 0, form)


def read_csv_blocks(
    file: Path,
    columns: Mapping[str, pa.DataType],
    bad_rows: BadRows,
    block: int = _BLOCK,
    form: CsvForm = CsvForm(),
) -> Iterator[pa.Table]:
    """Reads a file like `read_csv`, but yields a table for about every `block` bytes.

    Memory therefore does not grow with the size of the file.
    """
    require_readable(columns, "read_csv")
    with opened(file) as stream:
        first = _first_lines(stream, form.delimiter)
        header = _header(_first_row(first, form), columns, file, form)

        lines = 0
        rest = first[len(header) :]
        while data := stream.read(block):
            data = rest + data
            # The last row may continue in the next block.
            whole = _whole_rows(data, form)
            rest = data[whole:]
            if whole:
                block_of_rows = header + data[:whole]
                yield _parsed(block_of_rows, len(header), columns, file, bad_rows, lines, form)
                lines += len(line_ends(data[:whole]))

            # Without this limit, a missing quote would make this loop collect the rest of the file.
            if b'"' in rest and len(rest) > _LONGEST_ROW:
                raise _wrong_quote(file, lines + len(line_ends(header)) + 1)

        # A file with only a header gives one empty table.
        if rest or lines == 0:
            yield _parsed(header + rest, len(header), columns, file, bad_rows, lines, form)


def read_header(file: Path) -> bytes:
    """Returns the row of column names of a file, without a byte order mark."""
    with opened(file) as stream:
        # Any delimiter will do: it does not matter to the quotes around names.
        return _first_row(_first_lines(stream, ","), CsvForm())


def _first_lines(stream: BufferedIOBase, delimiter: str) -> bytes:
    """Reads the lines of the header: several, if a name has a line break."""
    # If the lines of the file end with "\r" only, `readline` returns the whole file.
    first = stream.readline().removeprefix(BYTE_ORDER_MARK)
    while b'"' in first and rows_of(first, delimiter).open:
        more = stream.readline()
        if not more:
            break
        first += more
    return first


def _first_row(data: bytes, form: CsvForm) -> bytes:
    if not data:
        return b""
    line = data[: line_ends(data)[0]]
    if b'"' not in line:
        return line

    # A quoted name may continue on the next line, so the end of the row must be found.
    rows = rows_of(data, form.delimiter)
    if not len(rows.ends):
        return data
    return data[: rows.ends[0]]


def _whole_rows(data: bytes, form: CsvForm) -> int:
    """Returns the length of the complete rows at the beginning of `data`.

    A row is complete if it ends with a line feed.
    """
    lines = data.rfind(b"\n") + 1
    if not lines or b'"' not in data[:lines]:
        return lines
    unclosed = rows_of(data[:lines], form.delimiter).open
    if unclosed is None:
        return lines
    return unclosed[0]


def _header(line: bytes, columns: Mapping[str, pa.DataType], file: Path, form: CsvForm) -> bytes:
    """Checks that the row of column names has each requested column once, and returns the row."""
    if not line:
        raise UserError(f"{file} is empty")
    names = names_in(line, form.delimiter)
    for name in columns:
        if name not in names:
            raise UserError(f"{file} has no column {name} (it has {', '.join(names)})")
        if names.count(name) > 1:
            raise UserError(f"{file} has {names.count(name)} columns {name}: rename all but one")
    return line


def names_in(header: bytes, delimiter: str) -> list[str]:
    """Returns the names of the columns in the first row of a file."""
    text = header.decode(errors="replace").rstrip("\r\n")
    return next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter), [])


def _parsed(
    data: bytes,
    header: int,
    columns: Mapping[str, pa.DataType],
    file: Path,
    bad_rows: BadRows,
    lines: int,
    form: CsvForm,
) -> pa.Table:
    """Parses the bytes of a header and some of the rows below it.

    Args:
        data: the header and the rows.
        header: the length of the header in bytes.
        columns: the types of the columns to read, by name.
        file: the file, for messages.
        bad_rows: handles invalid rows.
        lines: the number of lines of the file between the header and the rows in `data`.
        form: how the file is written.
    """
    # Arrow ignores a header without a line end if nothing follows it.
    if len(data) == header and not data.endswith((b"\n", b"\r")):
        data += b"\n"
    rows = rows_of(data, form.delimiter)
    _require_closed(data, rows, file, lines, form)

    longest = int(np.diff(rows.ends, prepend=0).max())
    try:
        table = _as_text(data, list(columns), longest, form)
        wrong = list[_WrongRow]()
        indices = np.arange(1, len(table) + 1)
    except pa.ArrowInvalid:
        # A row has the wrong number of fields, or a value is not UTF-8.
        table, indices, wrong = _row_by_row(data, columns, file, longest, form)
    # Arrow and `rows_of` find the same number of rows, unless quotes are in the wrong place.
    if len(table) + len(wrong) + 1 != len(rows.ends):
        raise _wrong_quote(file, _first_wrong_quote(data, rows, lines, form))

    blank = _blank_rows(data, rows)
    wrong = [row for row in wrong if row.number not in blank]
    if wrong:
        wrong_lines = pa.array(rows.lines[[row.number for row in wrong]] + lines, pa.int64())
        bad_rows.handle(file, wrong_lines, "wrong number of fields", wrong[0].example)
    if blank:
        filled = np.isin(indices, list(blank), invert=True)
        table = table.filter(pa.array(filled))
        indices = indices[filled]

    table = table.append_column(LINE, pa.array(rows.lines[indices] + lines))
    table = _utf8(table, columns, file, bad_rows)
    if len(rows.several):
        table = _without_line_breaks(table, columns, file, bad_rows, form)
    return typed(table, columns, file, bad_rows, form.times)


def _as_text(
    data: bytes,
    names: list[str],
    longest: int,
    form: CsvForm,
    skip: Callable[[arrow_csv.InvalidRow], str] | None = None,
) -> pa.Table:
    """Reads columns of a delimited file as text.

    Args:
        data: the content of the file, with a header.
        names: the names of the columns to read.
        longest: the length of the longest row in bytes.
        form: how the file is written.
        skip: a function that is called with each row that has the wrong number of fields. Without
            it, such a row raises an error.
    """
    read_options = arrow_csv.ReadOptions(
        # Arrow gives `skip` the numbers of rows only if it uses a single thread.
        use_threads=skip is None,
        block_size=max(_ARROW_BLOCK, 2 * longest),
    )
    parse_options = arrow_csv.ParseOptions(
        delimiter=form.delimiter,
        # Empty lines must count as lines.
        ignore_empty_lines=False,
        # Without this option, the ends of Arrow's blocks would decide how line breaks in values are
        # read.
        newlines_in_values=True,
        invalid_row_handler=skip,
    )
    # No value is read as null. An empty value becomes an empty text.
    convert_options = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), include_columns=names, null_values=[]
    )

    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=read_options,
        parse_options=parse_options,
        convert_options=convert_options,
    )


class _WrongRow(NamedTuple):
    """A row with the wrong number of fields.

    Attributes:
        number: the index of the row. The header has index 0.
        example: a description of the mistake, for a message.
    """

    number: int
    example: str


def _row_by_row(
    data: bytes,
    columns: Mapping[str, pa.DataType],
    file: Path,
    longest: int,
    form: CsvForm,
) -> tuple[pa.Table, np.ndarray, list[_WrongRow]]:
    """Reads a file that Arrow cannot read as a whole.

    A file that is not UTF-8 is read as Latin-1, in which all bytes are valid, because Arrow does
    not call `skip` for rows that are not UTF-8. In this case, the values in the table are bytes.

    Returns:
        The rows with the right number of fields, their indices, and the other rows.
    """
    latin = not is_text(data, "utf8")
    names = list(columns)
    if latin:
        data = data.decode("latin-1").encode()
        names = [name.encode().decode("latin-1") for name in names]
    wrong: list[_WrongRow] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        text = row.text
        if latin:
            text = text.encode("latin-1").decode(errors="backslashreplace")
        fields = f"{row.actual_columns} fields where {row.expected_columns} are expected"
        wrong.append(_WrongRow(row.number - 1, f"{fields}: {shown(text)}"))
        return "skip"

    try:
        # Encoding Latin-1 in UTF-8 turns a byte beyond ASCII into two bytes, so rows may become
        # twice as long.
        table = _as_text(data, names, 2 * longest, form, skip)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} cannot be read ({str(error).splitlines()[0]})") from error

    if latin:
        values = [
            [text.encode("latin-1") for text in column.to_pylist()] for column in table.columns
        ]
        table = pa.table([pa.array(column, pa.binary()) for column in values], names=list(columns))

    indices = np.arange(1, len(table) + len(wrong) + 1)
    return table, np.setdiff1d(indices, [row.number for row in wrong]), wrong


def _utf8(
    table: pa.Table, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows
) -> pa.Table:
    """Converts columns of bytes to text. Rows that are not UTF-8 are rejected or counted."""
    if all(table[name].type == pa.string() for name in columns):
        return table

    rows = table.select(list(columns)).to_pylist()
    valid = [all(is_text(value, "utf8") for value in row.values()) for row in rows]
    if not all(valid):
        lines = table[LINE].filter(pa.array([not right for right in valid]))
        example = f"not utf8 text: {shown(str(rows[valid.index(False)]))}"
        bad_rows.handle(file, lines, "not utf8 text", example)
        table = table.filter(pa.array(valid))

    return table.cast(pa.schema({**dict.fromkeys(columns, pa.string()), LINE: pa.int64()}))


def _without_line_breaks(
    table: pa.Table,
    columns: Mapping[str, pa.DataType],
    file: Path,
    bad_rows: BadRows,
    form: CsvForm,
) -> pa.Table:
    """Returns the rows without line breaks in the columns; rejects or counts the others.

    If the form says so, line breaks become blanks instead.
    """
    for name in columns:
        if form.joins_lines:
            joined = pc.replace_substring_regex(table[name], r"[\r\n]+", " ")
            table = table.set_column(table.schema.get_field_index(name), name, joined)
            continue
        broken = pc.match_substring_regex(table[name], r"[\r\n]")
        if pc.any(broken, min_count=0).as_py():
            example = f"{name} has a line break: {shown(table[name].filter(broken)[0].as_py())}"
            bad_rows.handle(file, table[LINE].filter(broken), f"{name} has a line break", example)
            table = table.filter(pc.invert(broken))
    return table


def _first_wrong_quote(data: bytes, rows: Rows, lines: int, form: CsvForm) -> int | None:
    """Returns the line of the first row that has a quote in the wrong place, if there is one."""
    for row in range(len(rows.ends)):
        text = data[rows.start(row) : rows.ends[row]]
        if b'"' in text and not is_strict(text, form.delimiter):
            return lines + int(rows.lines[row])
    return None


def _blank_rows(data: bytes, rows: Rows) -> set[int]:
    """Returns the indices of the rows that contain only blanks."""
    starts = np.concatenate([[0], rows.ends[:-1]])
    # Only rows that begin with a blank are checked one by one, because there are few of them.
    likely = np.flatnonzero(np.isin(np.frombuffer(data, np.uint8)[starts], list(b" \t\r\n")))
    return {int(row) for row in likely if not data[starts[row] : rows.ends[row]].strip()}


def _require_closed(data: bytes, rows: Rows, file: Path, lines: int, form: CsvForm) -> None:
    """Raises UserError if a quote is not closed, or a wrong quote may have joined several rows."""
    if rows.open is not None:
        raise _wrong_quote(file, lines + rows.open[1])
    for row in rows.several.tolist():
        if not is_strict(data[rows.start(row) : rows.ends[row]], form.delimiter):
            raise _wrong_quote(file, lines + int(rows.lines[row]))


def _wrong_quote(file: Path, line: int | None) -> UserError:
    where = file if line is None else f"{file}, line {line}"
    return UserError(
        f"{where}: a quote that is not closed, or not doubled inside of a value: correct it"
    )
