"""Delimited raw files -> Arrow tables, with the line of every row that cannot be read.

Lines are read as text and split by vectorised Arrow functions, so that separators of any length ("::") work, every
engine later sees the same rows, and a bad row is named by file and line.
"""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from torchrec_priors.errors import UserError

LINE = "line"


@dataclass
class BadRows:
    """What to do with a row that cannot be read, and the count of those dropped.

    Attributes:
        policy: `refuse` raises at the first; `drop` leaves it out and counts it.
        dropped: reason -> number of rows.
    """

    policy: Literal["refuse", "drop"] = "refuse"
    dropped: dict[str, int] = field(default_factory=dict)

    def handle(self, file: Path, lines: pa.Array, reason: str, example: str) -> None:
        """Refuses, or counts, the rows on `lines` (1-based); `example` describes the first of them."""
        if len(lines) == 0:
            return
        if self.policy == "refuse":
            raise UserError(f"{file}, line {lines[0].as_py()}: {example} (--on-bad-row drop leaves such rows out)")
        key = f"{file.name}: {reason}"
        self.dropped[key] = self.dropped.get(key, 0) + len(lines)


def require_files(folder: Path, names: list[str]) -> None:
    """Raises UserError where the folder or any of the files is missing."""
    if not folder.is_dir():
        raise UserError(f"--raw: there is no folder '{folder}'")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"--raw: '{folder}' lacks {', '.join(missing)}")


def read_table(
    file: Path,
    separator: str,
    columns: Mapping[str, pa.DataType],
    bad_rows: BadRows,
    *,
    encoding: str = "utf8",
) -> pa.Table:
    """A delimited file without a header as typed columns plus `line` (int64, 1-based); blank lines are skipped.

    Raises:
        UserError: a row of another number of fields, or a field that is not of its column's type, where `bad_rows`
            refuses; a line that is no text of the encoding, likewise; an empty file.
    """
    text, numbers = _lines(file, encoding, bad_rows)
    filled = pc.not_equal(pc.utf8_trim(text, characters=" "), "")
    text, numbers = text.filter(filled), numbers.filter(filled)

    fields = pc.split_pattern(text, separator)
    right = pc.equal(pc.list_value_length(fields), len(columns))
    wrong = pc.invert(right)
    if pc.any(wrong).as_py():
        bad, lines = text.filter(wrong), numbers.filter(wrong)
        found = len(bad[0].as_py().split(separator))
        example = f"{found} fields where {len(columns)} are expected: {_shorten(bad[0].as_py())}"
        bad_rows.handle(file, lines, "wrong number of fields", example)
        fields, numbers = fields.filter(right), numbers.filter(right)

    texts = {name: pc.list_element(fields, position) for position, name in enumerate(columns)}
    return _typed(texts, numbers, columns, file, bad_rows)


def read_csv(file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows) -> pa.Table:
    """The named columns of a comma-separated file with a header and quoted texts, typed, plus `line`.

    Values must not hold line breaks.

    Raises:
        UserError: a missing column; otherwise as `read_table`.
    """
    parse = csv.ParseOptions(ignore_empty_lines=False)  # they count as lines
    whole = csv.ConvertOptions(column_types=columns, include_columns=list(columns), null_values=[])
    try:
        table = csv.read_csv(file, parse_options=parse, convert_options=whole)
    except KeyError as error:
        raise UserError(f"{file} has no column {str(error).split(chr(39))[1]}") from error
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise UserError(f"{file} is empty") from error
        return _read_csv_row_by_row(file, columns, bad_rows)
    return table.append_column(LINE, pa.array(np.arange(2, len(table) + 2)))


def _read_csv_row_by_row(file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows) -> pa.Table:
    """`read_csv` of a file in which something is wrong: every value as text first, so that its line is known."""
    wrong: list[csv.InvalidRow] = []

    def skip(row: csv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    texts = csv.ConvertOptions(
        column_types={name: pa.binary() for name in columns}, include_columns=list(columns), null_values=[]
    )
    table = csv.read_csv(
        file,
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=skip),
        convert_options=texts,
    )
    skipped = [row.number for row in wrong]
    if wrong:
        example = f"{wrong[0].actual_columns} fields where {wrong[0].expected_columns} are expected: "
        bad_rows.handle(
            file, pa.array(skipped, pa.int64()), "wrong number of fields", example + _shorten(wrong[0].text)
        )
    lines = file.read_bytes().split(b"\n")
    blank = [number for number, line in enumerate(lines, 1) if not line.strip()]
    numbers = np.setdiff1d(np.arange(2, len(table) + len(wrong) + 2), skipped)
    filled = np.isin(numbers, blank, invert=True)
    table, numbers = table.filter(filled), numbers[filled]
    valid = [all(_is_text(value, "utf8") for value in row.values()) for row in table.to_pylist()]
    keep = pa.array(valid, pa.bool_())
    if not all(valid):
        bad = pa.array(numbers).filter(pc.invert(keep))
        example = f"not utf8 text: {_shorten(str(table.to_pylist()[valid.index(False)]))}"
        bad_rows.handle(file, bad, "not utf8 text", example)
    decoded = {name: table[name].filter(keep).combine_chunks().cast(pa.string()) for name in columns}
    return _typed(decoded, pa.array(numbers).filter(keep), columns, file, bad_rows)


def _typed(
    texts: dict[str, pa.Array], numbers: pa.Array, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows
) -> pa.Table:
    """Columns of text as their types, plus `line`; rows that are not of them are refused or counted."""
    for name, kind in columns.items():
        right = _castable(texts[name], kind)
        wrong = pc.invert(right)
        if pc.any(wrong).as_py():
            example = f"{name} is no {_kind_name(kind)}: {_shorten(texts[name].filter(wrong)[0].as_py())}"
            bad_rows.handle(file, numbers.filter(wrong), f"{name} is no {_kind_name(kind)}", example)
            numbers = numbers.filter(right)
            texts = {other: column.filter(right) for other, column in texts.items()}
    typed = {name: texts[name].cast(kind) for name, kind in columns.items()}
    return pa.table({**typed, LINE: numbers})


def read_lists(file: Path, bad_rows: BadRows) -> pa.Array:
    """A file with two or more integers a line, separated by blanks, as list<int64>; blank lines are skipped.

    Raises:
        UserError: a line with anything else, where `bad_rows` refuses; an empty file.
    """
    text, numbers = _lines(file, "utf8", bad_rows)
    text = pc.utf8_trim_whitespace(text)
    filled = pc.not_equal(text, "")
    text, numbers = text.filter(filled), numbers.filter(filled)
    right = pc.match_substring_regex(text, _INTEGERS)
    wrong = pc.invert(right)
    if pc.any(wrong).as_py():
        example = f"not two or more integers: {_shorten(text.filter(wrong)[0].as_py())}"
        bad_rows.handle(file, numbers.filter(wrong), "not two or more integers", example)
        text = text.filter(right)
    return pc.split_pattern_regex(text, r"\s+").cast(pa.large_list(pa.int64()))


def keep_valid(table: pa.Table, valid: pa.Array, file: Path, bad_rows: BadRows, column: str, must: str) -> pa.Table:
    """The rows of `table` where `valid`; the others are refused or counted as "<column> <must>"."""
    wrong = pc.invert(valid)
    if not pc.any(wrong).as_py():
        return table
    example = f"{column} {must}: {_shorten(str(table[column].filter(wrong)[0].as_py()))}"
    bad_rows.handle(file, table[LINE].filter(wrong), f"{column} {must}", example)
    return table.filter(valid)


def _lines(file: Path, encoding: str, bad_rows: BadRows) -> tuple[pa.Array, pa.Array]:
    """(text, line number) of every line that is text of this encoding."""
    data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not data:
        raise UserError(f"{file} is empty")
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    offsets = np.unique(np.concatenate([[0], ends, [len(data)]])).astype(np.int64)
    count = len(offsets) - 1
    lines = pa.Array.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    numbers = pa.array(np.arange(1, count + 1))
    try:
        text = _decoded(lines, data, encoding)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        valid = pa.array([_is_text(line, encoding) for line in lines.to_pylist()])
        wrong = pc.invert(valid)
        example = f"not {encoding} text: {_shorten(str(lines.filter(wrong)[0].as_py())[2:-1])}"
        bad_rows.handle(file, numbers.filter(wrong), f"not {encoding} text", example)
        good = lines.filter(valid).to_pylist()
        text = pa.array([line.decode(encoding) for line in good], pa.large_string())
        numbers = numbers.filter(valid)
    return pc.utf8_rtrim(text, characters="\r\n"), numbers


def _decoded(lines: pa.Array, data: bytes, encoding: str) -> pa.Array:
    """All lines as text; raises where one of them is none."""
    if codecs.lookup(encoding).name == "utf-8":
        return lines.cast(pa.large_string())
    text = data.decode(encoding).removesuffix("\n")
    return pa.array(text.split("\n"), pa.large_string())


def _is_text(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


_INTEGER = r"^-?[0-9]{1,18}$"
_INTEGERS = r"^-?[0-9]{1,18}(\s+-?[0-9]{1,18})+$"
_NUMBER = r"^-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$"


def _castable(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_integer(kind):
        right = pc.match_substring_regex(texts, _INTEGER)
        values = pc.if_else(right, texts, "0").cast(pa.int64())
        low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
        return pc.and_(right, pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)))
    if pa.types.is_floating(kind):
        right = pc.match_substring_regex(texts, _NUMBER)
        return pc.and_(right, pc.is_finite(pc.if_else(right, texts, "0").cast(pa.float64())))
    assert pa.types.is_string(kind), f"no reader for {kind}"
    return pc.is_valid(texts)


def _kind_name(kind: pa.DataType) -> str:
    return "integer" if pa.types.is_integer(kind) else "number" if pa.types.is_floating(kind) else "text"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
