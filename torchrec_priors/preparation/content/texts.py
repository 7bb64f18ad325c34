"""Makes one text for each item, from columns of the catalogue and from labels."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.prepared.data_set import PreparedData

_NOT_TEXT = ("item", "item_id", "frequency")
_BETWEEN_COLUMNS = ". "
_BETWEEN_LABELS = ", "


def item_texts(data: PreparedData, columns: list[str], *, named: bool = False) -> pa.Array:
    """Returns a text for each item; it is empty if the item has no value in any column.

    The values of several columns follow one another: "Toy Story (1995). Animation, Comedy".

    Args:
        data: the data set.
        columns: columns of the catalogue, or priors of items, whose groups are labels.
        named: whether the name of its column is before each value: "title: Toy Story (1995)".

    Raises:
        UserError: there is no such column or prior, or a column holds lists.
    """
    catalogue = data.catalogue()
    usable = [name for name in catalogue.column_names if name not in _NOT_TEXT]
    labels = [prior.name for prior in data.manifest.priors if prior.kind in ("item", "graph")]

    parts = []
    for column in columns:
        if column in usable:
            parts.append(_values(catalogue[column], column))
        elif column in labels:
            parts.append(_labels(data, column))
        else:
            raise UserError(
                f"--columns: the data set has no column or prior of items '{column}': "
                f"{nearest(column, [*usable, *labels])}"
            )
    if not parts:
        raise UserError("--columns: give at least one column")
    if named:
        parts = [_named(part, column) for part, column in zip(parts, columns, strict=True)]

    text = parts[0]
    for part in parts[1:]:
        both = pc.binary_join_element_wise(text, part, _BETWEEN_COLUMNS)
        text = pc.if_else(pc.equal(text, ""), part, pc.if_else(pc.equal(part, ""), text, both))
    return text


def _named(values: pa.Array, column: str) -> pa.Array:
    """Returns "column: value" for each value that is not empty."""
    named = pc.binary_join_element_wise(f"{column}: ", values, "")
    return pc.if_else(pc.equal(values, ""), "", named)


def _values(column: pa.ChunkedArray, name: str) -> pa.Array:
    """Returns the values of a column as texts without blanks around them; null becomes empty."""
    values = column.combine_chunks()
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise UserError(f"--columns: column '{name}' holds {values.type}: give texts or numbers")
    return pc.utf8_trim_whitespace(pc.fill_null(values.cast(pa.string()), ""))


def _labels(data: PreparedData, prior: str) -> pa.Array:
    """Returns the names of each item's groups, in the order of the groups."""
    item_M, group_M = data.prior_pairs(prior, "item")
    order = np.lexsort((group_M, item_M))
    names = pa.array(data.manifest.prior(prior).groups, pa.string())

    offsets = np.zeros(data.items + 1, np.int32)
    np.cumsum(np.bincount(item_M, minlength=data.items), out=offsets[1:])
    lists = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(group_M[order])))
    return pc.binary_join(lists, _BETWEEN_LABELS)
