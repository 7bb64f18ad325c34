"""Columns of text -> columns of their types, the same way whatever file they came from."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.bad_rows import BadRows, shorten

LINE = "line"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_INTEGER = r"^-?[0-9]{1,18}$"
_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"


def require_readable(columns: Mapping[str, pa.DataType], reader: str) -> None:
    """Raises UserError where `typed` has no reading of a column's type."""
    types = pa.types
    for name, kind in columns.items():
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_string(kind)):
            raise UserError(
                f"column '{name}' as {kind}: {reader} reads text, integers and floats: read times as text and cast them"
            )


def typed(texts: pa.Table, columns: Mapping[str, pa.DataType], file: Path, bad_rows: BadRows) -> pa.Table:
    """Columns of text as their types, and `line` as it is; rows that are not of them are refused or counted."""
    for name, kind in columns.items():
        right = _castable(texts[name], kind)
        wrong = pc.invert(right)
        if pc.any(wrong).as_py():
            example = f"{name} is no {_kind_name(kind)}: {shorten(texts[name].filter(wrong)[0].as_py())}"
            bad_rows.handle(file, texts[LINE].filter(wrong), f"{name} is no {_kind_name(kind)}", example)
            texts = texts.filter(right)
    return texts.cast(pa.schema({**columns, LINE: pa.int64()}))


def is_text(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _castable(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_integer(kind):
        right = pc.match_substring_regex(texts, _INTEGER)
        values = pc.if_else(right, texts, "0").cast(pa.int64())
        signed = pa.types.is_signed_integer(kind)
        low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1)) if signed else (0, 2**kind.bit_width)
        return pc.and_(right, pc.and_(pc.greater_equal(values, low), pc.less_equal(values, min(high, 2**63) - 1)))
    if pa.types.is_floating(kind):
        right = pc.match_substring_regex(texts, _NUMBER)
        return pc.and_(right, pc.is_finite(pc.if_else(right, texts, "0").cast(pa.float64())))
    return pc.is_valid(texts)


def _kind_name(kind: pa.DataType) -> str:
    return "integer" if pa.types.is_integer(kind) else "number" if pa.types.is_floating(kind) else "text"
