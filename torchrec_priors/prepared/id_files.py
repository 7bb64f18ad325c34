"""Reads lists of original ids from files that other systems write.

The ids are those of users to be served, or of items that may or must not be recommended.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.common.files import check_file
from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError, shown
from torchrec_priors.parquet import read_schema, read_table
from torchrec_priors.prepared.id_texts import id_texts

# The first bytes of a Parquet file, and of files packed by gzip, zip, bzip2, xz and zstd.
_PARQUET = b"PAR1"
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX", b"(\xb5/\xfd")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(r"\r\n|\r|\n")
# A line that holds one id, including the line's end. The groups are the id in quotes and the id
# without quotes; only one of the two matches.
_LINE = re.compile(
    r'[ \t]*(?:"((?:[^"]|"")*)"[ \t]*|([^"\r\n][^\r\n]*)?)(?:\r\n|\r|\n|$(?![\s\S]))'
)


def read_ids(file: Path, column: str, *, option: str) -> pa.Array:
    """Reads the ids of a file as texts, in the order of the file.

    The file is Parquet with the column `column`, or text with one id per line. A text file is read
    as CSV with one column. Ids may be quoted. They must be quoted if they contain a comma, a quote
    or a line break, or begin or end with a blank. If the first line is the name of the column, it
    is skipped as a header. Empty lines are ignored.

    Args:
        option: the option that names the file, for messages.

    Raises:
        UserError: there is no such file, it has neither of the two forms, an id is missing, or the
            file holds no ids.
    """
    where = f"{option}: '{file}'"
    remedy = f"give one id per line, or a Parquet file with a column '{column}'"
    try:
        check_file(file, option)
        # The content of the file decides between the two forms, not its name.
        with file.open("rb") as opened:
            magic = opened.read(len(_PARQUET))
        if magic.startswith(_PACKED):
            raise UserError(f"{where} is compressed: unpack it")
        if magic == _PARQUET:
            ids = _from_parquet(file, column, where)
        else:
            ids = _from_text(file, column, where, remedy)
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, where)
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} cannot be read ({reason}): {remedy}") from error

    if not len(ids):
        raise UserError(f"{where} holds no ids")
    return ids


def first_repeated(ids: pa.Array) -> int | None:
    """Returns the index of the first id that repeats an earlier one, or None if all ids differ.

    >>> first_repeated(pa.array(["7", "8", "7", "8"]))
    2
    """
    # Codes are numbered in the order of first appearance. Without repeats, the i-th code is i.
    codes = ids.dictionary_encode().indices.to_numpy()
    repeated = codes != np.arange(len(codes))
    return int(np.argmax(repeated)) if repeated.any() else None


def places(ids: pa.Array, among: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns the index of each of `ids` in `among`, int64; -1 if it is not there.

    The ids in `among` are distinct. The hash table is built from `ids`, so finding a short list in
    a large catalogue takes one pass over the catalogue.

    >>> places(pa.array(["b", "x", "b"]), pa.array(["a", "b"])).tolist()
    [1, -1, 1]
    """
    distinct = ids.dictionary_encode()
    code = as_numbers(pc.index_in(among, value_set=distinct.dictionary))
    index_of_code = np.full(len(distinct.dictionary), -1, np.int64)
    index_of_code[code[code >= 0]] = np.flatnonzero(code >= 0)
    indices: np.ndarray = index_of_code[distinct.indices.to_numpy()]
    return indices


def as_numbers(indices: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns the result of Arrow's `index_in` as int64, with -1 for null."""
    whole = indices.combine_chunks() if isinstance(indices, pa.ChunkedArray) else indices
    numbers: np.ndarray = whole.fill_null(-1).to_numpy().astype(np.int64)
    return numbers


def _from_parquet(file: Path, column: str, where: str) -> pa.Array:
    """Reads the ids of a Parquet file as texts."""
    names = read_schema(file).names
    if column not in names:
        raise UserError(f"{where} has no column '{column}' (it has {', '.join(names)})")
    ids = read_table(file, [column])[column]
    if ids.null_count:
        row = int(np.argmin(ids.is_valid().to_numpy()))
        raise UserError(f"{where} has no id in row {row + 1} ({ids.null_count} such rows)")
    return id_texts(ids, f"{where}, column '{column}'")


def _from_text(file: Path, column: str, where: str, remedy: str) -> pa.Array:
    """Reads the ids of a text file, without the header and empty lines."""
    data = file.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{where}, line {line} cannot be read, as it is not UTF-8 text: {remedy}"
        ) from error

    if '"' in text:
        ids = pa.array(_quoted_ids(text, where, remedy), pa.string())
    else:
        # Without quotes, all lines are split in one call, which is much faster than a loop.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = pc.split_pattern(pa.array([text], pa.large_string()), "\n")
        ids = pc.utf8_trim_whitespace(lines.flatten()).cast(pa.string())
        # A file with several columns is rejected, because the ids need not be in its first column.
        has_comma = pc.match_substring(ids, ",")
        if pc.any(has_comma, min_count=0).as_py():
            row = pc.index(has_comma, True).as_py()
            raise _comma_error(where, row + 1, ids[row].as_py(), remedy)

    ids = ids.filter(pc.not_equal(ids, ""))
    return ids.slice(1) if len(ids) and ids[0].as_py() == column else ids


def _quoted_ids(text: str, where: str, remedy: str) -> list[str]:
    """Returns the ids of a text in which some ids are in quotes."""
    ids = list[str]()
    start = 0
    line = 1
    while start < len(text):
        match = _LINE.match(text, start)
        if match is None:
            raise UserError(f"{where}, line {line}: a quote that is not closed: {remedy}")

        quoted = match[1]
        plain = match[2] or ""
        if quoted is None and "," in plain:
            raise _comma_error(where, line, plain.strip(), remedy)
        ids.append(plain.strip() if quoted is None else quoted.replace('""', '"'))

        # An id in quotes may contain line breaks, so one match may span several lines.
        start = match.end()
        line = line + len(_LINE_END.findall(match[0]))
    return ids


def _comma_error(where: str, line: int, text: str, remedy: str) -> UserError:
    """Returns the error for a line with a comma, which may hold several values."""
    return UserError(
        f"{where}, line {line}: {shown(text)} has a comma: {remedy}, "
        "and put an id that contains a comma in quotes"
    )
