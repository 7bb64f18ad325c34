"""Converts original ids of any Arrow type to the texts by which they are compared.

7, "7" and a decimal 7 are the same id.
"""

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError

# Whole numbers below it are exact as floating-point numbers.
_EXACT = 2**53


def id_texts(ids: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """The ids as one array of texts; nulls stay nulls.

    Args:
        where: the place of the ids, for messages.

    Raises:
        UserError: ids of a type other than text, integers, whole numbers, dates and times; bytes
            that are not UTF-8; numbers that are not whole.
    """
    plain = plain_array(ids)
    kind = plain.type
    types = pa.types

    # Numbers that are whole get the text of the integer.
    if types.is_floating(kind):
        return _whole(plain, where).cast(pa.string())
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
    """The same values in one array, without a dictionary.

    An array of an extension type becomes the array in which it is stored.
    """
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    # `combine_chunks` leaves several chunks if one array cannot hold the values.
    if isinstance(whole, pa.ChunkedArray):
        raise UserError("more ids than one array holds: give fewer at a time")

    # A UUID is stored as bytes; its text is not the one of these.
    if isinstance(whole.type, pa.UuidType):
        return pa.array(
            [None if value is None else str(value) for value in whole.to_pylist()], pa.string()
        )
    if isinstance(whole.type, pa.BaseExtensionType):
        return plain_array(whole.storage)
    if pa.types.is_dictionary(whole.type):
        return plain_array(whole.dictionary_decode())
    return whole


def _whole(numbers: pa.Array, where: str) -> pa.Array:
    """Floating-point numbers as integers.

    A column of integers is read as floating-point numbers if some are missing.
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
