"""Turns labels of items or users into numbered groups, including the remainder group."""

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.corpus import Labels
from torchrec_priors.preparation.engine.engine import Engine


def groups(
    engine: Engine, labels: Labels, entities: ir.Table, entity: str
) -> tuple[list[str], list[int], ir.Table]:
    """Numbers the groups of a prior. The remainder group comes last if it is empty.

    Args:
        entities: a table of all existing items or users, with the id column.
        entity: the name of the id column: `item_id` or `user_id`.

    Returns:
        The names of the groups, their sizes, and a table of (entity, group).
    """
    member = engine.materialise(
        f"members_{entity}_{labels.name}", expressions.members(labels, entities, entity)
    )
    sizes = engine.to_arrow(expressions.group_sizes(member, entity))
    names = sizes["label"].to_pylist()
    counts = sizes["size"].to_pylist()

    # Every prior has a remainder group, even if the group is empty.
    if labels.remainder not in names:
        names = [*names, labels.remainder]
        counts = [*counts, 0]

    numbers = ibis.memtable(
        pa.table({"label": names, "group": pa.array(range(len(names)), pa.int32())})
    )
    return names, counts, member.inner_join(numbers, "label")


def pairs(grouped: ir.Table, entities: ir.Table, entity: str) -> ir.Table:
    """Returns the table of `priors/<name>.parquet`: `item` (row id) or `user_id`, and `group`."""
    column = "user_id"
    if entity == "item_id":
        column = "item"
        grouped = grouped.inner_join(entities.select("item_id", "item"), "item_id")
    return grouped.select(column, "group").order_by([column, "group"])
