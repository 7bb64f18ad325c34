"""Reads delimited raw files as Arrow tables. Errors name the line of a row that cannot be read.

Lines are read as text and split by Arrow functions, which work on whole columns. Separators may
have any length, such as "::".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, no_such_folder, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.lines import lines_of
from torchrec_priors.preparation.raw.typed import LINE, is_text, require_readable, typed

_PACKED = (".gz", ".zip", ".7z", ".bz2", ".xz", ".zst", ".tar", ".tgz")
# The maximum number of file names in a message.
_LISTED = 5


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raises UserError if the folder or a file is missing. The message lists the existing files."""
    if not folder.is_dir():
        raise UserError(f"--raw: {no_such_folder(folder)}")
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
    text, numbers = lines_of(file, encoding, bad_rows)
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


def keep_first(table: pa.Table, file: Path, bad_rows: BadRows, column: str) -> pa.Table:
    """Returns the first row of each value of a column. Later rows with the same value are bad rows.

    Args:
        table: a table with the column `line`.
        file: the file of the table, for messages.
        bad_rows: handles the later rows.
        column: the column whose values must not repeat.
    """
    seen = set()
    first = []
    for value in table[column].to_pylist():
        first.append(value not in seen)
        seen.add(value)

    return keep_valid(table, pa.array(first, pa.bool_()), file, bad_rows, column, "must not repeat")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
