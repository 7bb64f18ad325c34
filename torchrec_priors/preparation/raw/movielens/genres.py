"""The genres of films as pairs of a film and a genre."""

import pyarrow as pa
import pyarrow.compute as pc


def from_flags(films: pa.Table, flags: dict[str, str]) -> pa.Table:
    """Returns a table of (item_id, label) from flags that are 0 or 1.

    Args:
        films: a table of `item_id` and the columns in `flags`.
        flags: the name of each genre, by its column.
    """
    parts = []
    for column, genre in flags.items():
        ids = films.filter(pc.equal(films[column], 1))["item_id"]
        parts.append(pa.table({"item_id": ids, "label": pa.array([genre] * len(ids), pa.string())}))
    return pa.concat_tables(parts)


def from_lists(films: pa.Table) -> pa.Table:
    """Returns a table of (item_id, label) from texts such as "Comedy|Drama" in `genres`.

    The text "(no genres listed)" gives no label.
    """
    # A text that lists several genres becomes several rows.
    lists = pc.split_pattern(films["genres"].combine_chunks(), "|")
    items = films["item_id"].combine_chunks().take(pc.list_parent_indices(lists))
    pairs = pa.table({"item_id": items, "label": pc.list_flatten(lists)})

    nothing = pc.is_in(pairs["label"], pa.array(["", "(no genres listed)"]))
    return pairs.filter(pc.invert(nothing))
