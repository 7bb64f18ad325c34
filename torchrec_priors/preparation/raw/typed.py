"""Converts columns of text to typed columns, in the same way for all file formats."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.times import TimeForm

# The name of the column with the line number of each row.
LINE = "line"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_INTEGER = r"^-?[0-9]+$"
_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"


def require_readable(columns: Mapping[str, pa.DataType], reader: str) -> None:
    """Raises UserError if `typed` cannot read a column's type.

    Args:
        columns: the types of the columns to read, by name.
        reader: the name of the function that reads the file, for messages.
    """
    types = pa.types
    for name, kind in columns.items():
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_string(kind)):
            raise UserError(
                f"column '{name}' as {kind}: {reader} reads text, integers and floats:"
                " read times as text and cast them"
            )


def typed(
    texts: pa.Table,
    columns: Mapping[str, pa.DataType],
    file: Path,
    bad_rows: BadRows,
    times: Mapping[str, TimeForm] = MappingProxyType({}),
) -> pa.Table:
    """Converts columns of text to the types in `columns`; `line` stays unchanged.

    Rows with a value that does not have the type are rejected or counted.

    Args:
        times: the forms of columns of times, by name. These become milliseconds.
    """
    for name, form in times.items():
        moments = form.milliseconds(texts[name])
        readable = pc.is_valid(moments)
        texts = _rows_where(texts, readable, name, f"is not a time ({form.words})", file, bad_rows)
        index = texts.schema.get_field_index(name)
        texts = texts.set_column(index, name, moments.drop_null())

    for name, kind in columns.items():
        if name in times:
            continue
        readable = _readable(texts[name], kind)
        texts = _rows_where(texts, readable, name, f"is not {_kind_name(kind)}", file, bad_rows)

        # An error in the cast below would not name a line, so ranges and leading zeros are handled
        # beforehand.
        if pa.types.is_integer(kind):
            reason = f"is beyond the integers of {kind.bit_width} bits"
            fits = in_range(texts[name], kind)
            texts = _rows_where(texts, fits, name, reason, file, bad_rows)
            index = texts.schema.get_field_index(name)
            texts = texts.set_column(index, name, without_zeros(texts[name]))

    return texts.cast(pa.schema({**columns, LINE: pa.int64()}))


def is_text(line: bytes, encoding: str) -> bool:
    """Returns whether bytes are valid in an encoding."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def in_range(texts: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Returns whether the integers in texts fit in this type."""
    # These are the absolute values of the smallest and the largest integer of the type.
    if pa.types.is_signed_integer(kind):
        low = 2 ** (kind.bit_width - 1)
        high = 2 ** (kind.bit_width - 1) - 1
    else:
        low = 0
        high = 2**kind.bit_width - 1

    below = pc.starts_with(texts, "-")
    digits = pc.utf8_ltrim(texts, characters="-0")
    return pc.if_else(below, _at_most(digits, str(low)), _at_most(digits, str(high)))


def without_zeros(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Removes leading zeros from integers in texts, because Arrow accepts only a few of them."""
    # Usually no text has a leading zero, and the column is returned unchanged.
    if not pc.any(pc.match_substring_regex(texts, "^-?0."), min_count=0).as_py():
        return texts
    digits = pc.replace_substring_regex(texts, "^(-?)0+([1-9])", r"\1\2")
    return pc.replace_substring_regex(digits, "^-?0+$", "0")


def _rows_where(
    texts: pa.Table, right: pa.Array, name: str, reason: str, file: Path, bad_rows: BadRows
) -> pa.Table:
    """Returns the rows for which `right` is true. The others are rejected or counted."""
    wrong = pc.invert(right)
    if not pc.any(wrong, min_count=0).as_py():
        return texts
    example = f"{name} {reason}: {shown(texts[name].filter(wrong)[0].as_py())}"
    bad_rows.handle(file, texts[LINE].filter(wrong), f"{name} {reason}", example)
    return texts.filter(right)


def _at_most(digits: pa.Array | pa.ChunkedArray, largest: str) -> pa.Array | pa.ChunkedArray:
    """Returns whether numbers are at most `largest`.

    The numbers are texts without leading zeros. An empty text means zero.
    """
    # Texts of equal length have the same order as their numbers.
    length = pc.utf8_length(digits)
    as_long = pc.and_(pc.equal(length, len(largest)), pc.less_equal(digits, largest))
    return pc.or_(pc.less(length, len(largest)), as_long)


def _readable(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Returns whether texts can be read as values of a type."""
    if pa.types.is_integer(kind):
        return pc.match_substring_regex(texts, _INTEGER)

    if pa.types.is_floating(kind):
        right = pc.match_substring_regex(texts, _NUMBER)
        # A number may have the right form, but be so large that it would become infinity.
        return pc.and_(right, pc.is_finite(pc.if_else(right, texts, "0").cast(pa.float64())))

    return pc.is_valid(texts)


def _kind_name(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "an integer"
    if pa.types.is_floating(kind):
        return "a number"
    return "text"
