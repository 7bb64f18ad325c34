"""The prepared data set as Ibis expressions, engine-neutral: the same rows in the same order on DuckDB and on Spark.

Split (horizon E, a user of n interactions): the last E are test, the E before them validation, the rest training;
users with n <= 2E are left out. Everything computed from data reads training interactions alone.
"""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.corpus import Corpus, Labels

# 2^32 / golden ratio, odd: multiples of it modulo 2^32 fill the interval evenly (Fibonacci hashing).
_GOLDEN = 2_654_435_769
_RANGE = 2**32


@dataclass(frozen=True)
class Expressions:
    """Tables still to be computed.

    Attributes:
        kept: interactions of kept users, with `position` (0-based), `n`, and `item` (int64 row id).
        training: the training part of `kept`.
        items: the catalogue with `item`, `item_id`, `frequency`, and the corpus's attributes; ordered by `item`.
    """

    kept: ir.Table
    training: ir.Table
    items: ir.Table


def split(interactions: ir.Table, horizon: int) -> tuple[ir.Table, ir.Table]:
    """Interactions with `position` and `n`; then those of kept users alone."""
    by_time = ibis.window(group_by=interactions.user_id, order_by=[interactions.timestamp, interactions["order"]])
    ranked = interactions.mutate(
        position=ibis.row_number().over(by_time).cast("int64"),
        n=interactions.count().over(ibis.window(group_by=interactions.user_id)),
    )
    return ranked, ranked.filter(ranked.n > 2 * horizon)


def build(corpus: Corpus, kept: ir.Table, horizon: int, seed: int) -> Expressions:
    """Row ids, frequencies and the split, given the interactions of kept users."""
    training = kept.filter(kept.position < kept.n - 2 * horizon)
    counts = training.group_by("item_id").aggregate(frequency=training.count())
    catalogue = corpus.items.left_join(counts, "item_id").drop("item_id_right")
    catalogue = catalogue.mutate(frequency=catalogue.frequency.fill_null(0).cast("int64"))
    items = _permuted(catalogue, seed)
    ids = items.select("item_id", "item")
    return Expressions(
        kept=kept.inner_join(ids, "item_id"),
        training=training.inner_join(ids, "item_id"),
        items=items.order_by("item"),
    )


def _permuted(catalogue: ir.Table, seed: int) -> ir.Table:
    """Row ids: a seeded permutation in which any contiguous block holds its share of every level of frequency.

    Items are ranked by frequency; rank r goes where frac(r * phi + seed-dependent offset) falls among all. Multiples
    of the golden ratio are evenly spread at every scale, so every row-wise shard gets the same traffic.
    """
    offset = (seed * 0x9E3779B97F4A7C15 >> 16) % _RANGE
    by_frequency = ibis.window(order_by=[ibis.desc(catalogue.frequency), catalogue.item_id])
    ranked = catalogue.mutate(_rank=ibis.row_number().over(by_frequency).cast("int64"))
    keyed = ranked.mutate(_key=(ranked._rank * _GOLDEN + offset) % _RANGE)
    placed = keyed.mutate(item=ibis.row_number().over(ibis.window(order_by=keyed._key)).cast("int32"))
    return placed.drop("_rank", "_key")


def sequences(kept: ir.Table, has_events: bool, user_groups: ir.Table | None) -> ir.Table:
    """One row a user: `user_id`, `items`, `timestamps`, `events`, `user_group`; ordered by user id."""
    fields = {"p": kept.position, "i": kept.item, "t": kept.timestamp}
    if has_events:
        fields["e"] = kept.event
    steps = kept.select("user_id", step=ibis.struct(fields))
    users = steps.group_by("user_id").aggregate(steps=steps.step.collect())
    users = users.mutate(steps=users.steps.sort())
    columns = {
        "user_id": users.user_id,
        "items": users.steps.map(lambda step: step.i).cast("array<int32>"),
        "timestamps": users.steps.map(lambda step: step.t).cast("array<int64>"),
    }
    if has_events:
        columns["events"] = users.steps.map(lambda step: step.e).cast("array<int8>")
    table = users.select(**columns)
    if user_groups is not None:
        first = user_groups.group_by("user_id").aggregate(user_group=user_groups.group.min())
        table = table.left_join(first, "user_id").drop("user_id_right")
    return table.order_by("user_id")


def members(labels: Labels, entities: ir.Table, entity: str) -> ir.Table:
    """(entity, label) with the remainder group for every entity without a label.

    Args:
        labels: original id -> label.
        entities: every entity that exists, a column named `entity` among others.
        entity: `item_id` or `user_id`.
    """
    table = labels.table.select(entity, "label").distinct().filter(labels.table.label.notnull())
    known = table.inner_join(entities.select(entity), entity)
    unlabelled = entities.select(entity).anti_join(table, entity)
    return known.union(unlabelled.mutate(label=ibis.literal(labels.remainder)))


def group_sizes(member: ir.Table, entity: str) -> ir.Table:
    """(label, size), by size, then by smallest original id: the order in which groups are numbered."""
    sizes = member.group_by("label").aggregate(size=member.count(), smallest=member[entity].min())
    return sizes.order_by([ibis.desc("size"), "smallest", "label"]).select("label", "size")
