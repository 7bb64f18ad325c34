"""Converts original ids of any Arrow type to texts, so that they can be compared.

The integer 7, the text "7" and the decimal number 7.0 are the same id.
"""

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError

# All whole numbers below this limit are exact in double precision.
_EXACT = 2**53


def id_texts(ids: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """Returns the ids as one array of texts; nulls stay nulls.

    Args:
        where: the file and column of the ids, for messages.

    Raises:
        UserError: the ids are not text, integers, whole numbers, dates or times; or they are bytes
            that are not UTF-8, or numbers that are not whole.
    """
    plain = plain_array(ids)
    kind = plain.type
    types = pa.types

    # A whole number gets the same text as the integer, for example "7" for 7.0.
    if types.is_floating(kind):
        return _as_integers(plain, where).cast(pa.string())
    if types.is_decimal(kind):
        texts = plain.cast(pa.string())
        return pc.replace_substring_regex(texts, r"\.0+$", "") if kind.scale > 0 else texts

    if types.is_nested(kind) or types.is_boolean(kind) or types.is_duration(kind):
        raise UserError(f"{where}: ids are {kind}: give integers or text")
    try:
        return plain.cast(pa.string())
    except pa.ArrowInvalid as error:
        is_bytes = (
            types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
        )
        if not is_bytes:
            raise
        raise UserError(
            f"{where}: ids are bytes that are not UTF-8: give integers or text"
        ) from error


def plain_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns the same values in one array, without a dictionary.

    An array of an extension type becomes the array in which it is stored.
    """
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    # `combine_chunks` leaves several chunks if one array cannot hold the values.
    if isinstance(whole, pa.ChunkedArray):
        raise UserError("more ids than one array holds: give fewer at a time")

    # A UUID is stored as 16 bytes, but its text is the usual form with hyphens.
    if isinstance(whole.type, pa.UuidType):
        return pa.array(
            [None if value is None else str(value) for value in whole.to_pylist()], pa.string()
        )
    if isinstance(whole.type, pa.BaseExtensionType):
        return plain_array(whole.storage)
    if pa.types.is_dictionary(whole.type):
        return plain_array(whole.dictionary_decode())
    return whole


def _as_integers(numbers: pa.Array, where: str) -> pa.Array:
    """Converts floating-point numbers to integers.

    Some programs write a column of integers as floating-point numbers if values are missing.
    """
    wide = numbers.cast(pa.float64())
    right = pc.and_(pc.equal(wide, pc.trunc(wide)), pc.less(pc.abs(wide), _EXACT))
    right = pc.fill_null(right, True)
    if not pc.all(right, min_count=0).as_py():
        wrong = wide.filter(pc.invert(right))[0].as_py()
        raise UserError(
            f"{where}: ids are floating-point numbers, such as {wrong}: give integers or text"
        )
    return wide.cast(pa.int64())
