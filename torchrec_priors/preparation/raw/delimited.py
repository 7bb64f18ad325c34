"""Reads delimited raw files as Arrow tables. Errors name the line of a row that cannot be read.

Lines are read as text and split by Arrow functions, which work on whole columns. Separators may
have any length, such as "::".
"""

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.typed import (
    BYTE_ORDER_MARK,
    LINE,
    in_range,
    is_text,
    require_readable,
    typed,
    without_zeros,
)

_PACKED = (".gz", ".zip", ".7z", ".bz2", ".xz", ".zst", ".tar", ".tgz")
# The maximum number of file names in a message.
_LISTED = 5
_INTEGERS = r"^-?[0-9]+(\s+-?[0-9]+)+$"


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raises UserError if the folder or a file is missing. The message lists the existing files."""
    if not folder.is_dir():
        raise UserError(f"--raw: there is no folder '{folder}'")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"--raw: '{folder}' lacks {', '.join(missing)} ({found_in(folder)})")


def folder_with(raw: Path, *forms: Sequence[str]) -> Path:
    """Returns the folder that contains the raw files: `raw`, or the only suitable folder inside it.

    Many archives contain a folder with the files. If no folder has the files, `raw` is returned,
    so that `require_files` can report the missing ones.

    Args:
        raw: the raw folder.
        forms: lists of file names. A suitable folder has all files of at least one list.

    Raises:
        UserError: several folders inside `raw` are suitable.
    """

    def has_files(folder: Path) -> bool:
        return any(all((folder / name).is_file() for name in names) for names in forms)

    if not raw.is_dir() or has_files(raw):
        return raw

    inner = [folder for folder in sorted(raw.iterdir()) if folder.is_dir() and has_files(folder)]
    if len(inner) > 1:
        names = ", ".join(folder.name for folder in inner)
        raise UserError(
            f"--raw: '{raw}' holds several data sets ({names}): give one of these folders"
        )
    if not inner:
        return raw
    return inner[0]


def found_in(folder: Path) -> str:
    """Lists the content of a folder for a message, which says what to do about packed files."""
    names = sorted(f"{file.name}/" if file.is_dir() else file.name for file in folder.iterdir())
    packed = [name for name in names if name.endswith(_PACKED)]
    if packed:
        pronoun = "it" if len(packed) == 1 else "them"
        return f"it has {_listed(packed)}: unpack {pronoun}"
    if names:
        return f"it has {_listed(names)}"
    return "it is empty"


def encoding_of(file: Path) -> str:
    """Returns `utf8` if the file is valid UTF-8, and otherwise `latin-1`.

    In Latin-1, all bytes are valid.
    """
    return "utf8" if is_text(file.read_bytes(), "utf8") else "latin-1"


def read_table(
    file: Path,
    separator: str,
    columns: Mapping[str, pa.DataType],
    bad_rows: BadRows,
    *,
    encoding: str = "utf8",
) -> pa.Table:
    """Reads a delimited file without a header as typed columns and `line` (int64, 1-based).

    Blank lines are skipped, but count as lines.

    Raises:
        UserError: the file is empty, a column type is not text, integer or float, or `bad_rows`
            rejects a row. A row is bad if it has the wrong number of fields, a field that does not
            have the type of its column, or bytes that are not valid in the encoding.
    """
    require_readable(columns, "read_table")
    text, numbers = _lines(file, encoding, bad_rows)
    # Only spaces count as blanks here, because tabs may be separators.
    filled = pc.not_equal(pc.utf8_trim(text, characters=" "), "")
    text = text.filter(filled)
    numbers = numbers.filter(filled)

    fields = pc.split_pattern(text, separator)
    right = pc.equal(pc.list_value_length(fields), len(columns))
    wrong = pc.invert(right)
    if pc.any(wrong).as_py():
        lines = numbers.filter(wrong)
        first = text.filter(wrong)[0].as_py()
        count = len(first.split(separator))
        example = f"{count} fields where {len(columns)} are expected: {shown(first)}"
        bad_rows.handle(file, lines, "wrong number of fields", example)
        fields = fields.filter(right)
        numbers = numbers.filter(right)

    texts = {name: pc.list_element(fields, position) for position, name in enumerate(columns)}
    return typed(pa.table({**texts, LINE: numbers}), columns, file, bad_rows)


def read_lists(file: Path, bad_rows: BadRows) -> pa.Array:
    """Reads a file with two or more integers per line as lists of int64.

    The integers are separated by white space. Blank lines are skipped.

    Raises:
        UserError: the file is empty, or a line contains something else and `bad_rows` rejects it.
    """
    text, numbers = _lines(file, "utf8", bad_rows)
    text = pc.utf8_trim_whitespace(text)
    filled = pc.not_equal(text, "")
    text = text.filter(filled)
    numbers = numbers.filter(filled)

    right = pc.match_substring_regex(text, _INTEGERS)
    wrong = pc.invert(right)
    if pc.any(wrong).as_py():
        example = f"not two or more integers: {shown(text.filter(wrong)[0].as_py())}"
        bad_rows.handle(file, numbers.filter(wrong), "not two or more integers", example)
        text = text.filter(right)
        numbers = numbers.filter(right)

    lists = pc.split_pattern_regex(text, r"\s+")
    fits = in_range(lists.flatten(), pa.int64())
    if not pc.all(fits, min_count=0).as_py():
        beyond = pc.invert(fits)
        example = (
            f"beyond the integers of 64 bits: {shown(lists.flatten().filter(beyond)[0].as_py())}"
        )
        # A row may contain several integers that are too large, but it counts once.
        rows = pc.list_parent_indices(lists).filter(beyond).unique()
        bad_rows.handle(file, numbers.take(rows), "integers beyond 64 bits", example)
        lists = lists.filter(
            pc.invert(pc.is_in(pa.array(np.arange(len(lists))), rows.cast(pa.int64())))
        )

    values = without_zeros(lists.flatten()).cast(pa.int64())
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def keep_valid(
    table: pa.Table, valid: pa.Array, file: Path, bad_rows: BadRows, column: str, must: str
) -> pa.Table:
    """Returns the valid rows of a table. The others are rejected, or counted as "<column> <must>".

    Args:
        table: a table with the column `line`.
        valid: whether each row is valid.
        file: the file of the table, for messages.
        bad_rows: handles the invalid rows.
        column: the column named in error messages, along with its value.
        must: the rule in words, such as "must not be negative".
    """
    wrong = pc.invert(valid)
    if not pc.any(wrong).as_py():
        return table
    example = f"{column} {must}: {shown(str(table[column].filter(wrong)[0].as_py()))}"
    bad_rows.handle(file, table[LINE].filter(wrong), f"{column} {must}", example)
    return table.filter(valid)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _lines(file: Path, encoding: str, bad_rows: BadRows) -> tuple[pa.Array, pa.Array]:
    """Returns the text and the line number of every line that is valid in the encoding."""
    data = file.read_bytes().removeprefix(BYTE_ORDER_MARK)
    if not data:
        raise UserError(f"{file} is empty")

    # The lines are slices of the file's bytes, so they are not copied. The last step removes their
    # line ends.
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    offsets = np.unique(np.concatenate([[0], ends, [len(data)]])).astype(np.int64)
    count = len(offsets) - 1
    lines = pa.Array.from_buffers(
        pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    numbers = pa.array(np.arange(1, count + 1))

    try:
        text = _decoded(lines, data, encoding)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        # Decoding line by line is slow, but it is only needed if a line is invalid.
        valid = pa.array([is_text(line, encoding) for line in lines.to_pylist()])
        wrong = pc.invert(valid)
        # The slice removes the b'' around the bytes.
        first = str(lines.filter(wrong)[0].as_py())[2:-1]
        example = f"not {encoding} text: {shown(first)}"
        bad_rows.handle(file, numbers.filter(wrong), f"not {encoding} text", example)

        good = lines.filter(valid).to_pylist()
        text = pa.array([line.decode(encoding) for line in good], pa.large_string())
        numbers = numbers.filter(valid)

    return pc.utf8_rtrim(text, characters="\r\n"), numbers


def _decoded(lines: pa.Array, data: bytes, encoding: str) -> pa.Array:
    """Decodes all lines. Raises an error if a line is not valid in the encoding."""
    # Arrow can only decode UTF-8. In other encodings, Python decodes the whole file, and the text
    # is split again.
    if codecs.lookup(encoding).name == "utf-8":
        return lines.cast(pa.large_string())
    text = data.decode(encoding).removesuffix("\n")
    return pa.array(text.split("\n"), pa.large_string())
