"""The prepared data set as Ibis expressions.

They give the same rows in the same order on DuckDB and on Spark.

A `Split` decides what is training, validation and test. Everything computed from data reads
training interactions only.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus, Labels

# 2^32 / golden ratio, odd: multiples of it modulo 2^32 fill the interval evenly (Fibonacci
# hashing).
_GOLDEN = 2_654_435_769
_RANGE = 2**32


def union(tables: Sequence[ir.Table]) -> ir.Table:
    """The rows of one or more tables of the same columns."""
    if len(tables) == 1:
        return tables[0]
    return tables[0].union(*tables[1:])


def log(corpus: Corpus) -> ir.Table:
    """The interactions, with the columns that preparation uses."""
    table = corpus.interactions
    columns = {
        "user_id": table["user_id"],
        "item_id": table["item_id"],
        "timestamp": table["timestamp"].cast("int64"),
        "order": table["order"].cast("int64"),
    }
    if corpus.events:
        columns["event"] = table["event"]
    return table.select(**columns)


def bounds(users: ir.Table, rows: int) -> ir.Table:
    """The first `user_id` of each bucket, in order; a bucket has about `rows` interactions.

    Args:
        users: `user_id` and `n`, the number of their interactions.
    """
    up_to_user = ibis.window(order_by=users.user_id, preceding=None, following=0)
    # A user belongs to the bucket in which their first interaction falls, so no user is divided.
    placed = users.mutate(
        bucket=((users.n.sum().over(up_to_user) - users.n) / rows).floor().cast("int64")
    )
    return (
        placed.group_by("bucket")
        .aggregate(first=placed.user_id.min())
        .order_by("first")
        .select("first")
    )


def bucket_of(user_id: ir.Value, first: Sequence[int | str], lowest: int = 0) -> ir.IntegerValue:
    """The bucket of a user, by bisection.

    Args:
        first: first user of each bucket except the lowest one.
        lowest: number of the lowest bucket.
    """
    if not first:
        return ibis.literal(lowest, "int32")

    middle = len(first) // 2
    below = bucket_of(user_id, first[:middle], lowest)
    above = bucket_of(user_id, first[middle + 1 :], lowest + middle + 1)
    return ibis.ifelse(user_id < first[middle], below, above)


def without_repeats(interactions: ir.Table) -> ir.Table:
    """Each event once, at its first position: the same user, item, time and type of event."""
    event = [name for name in interactions.columns if name != "order"]
    return interactions.group_by(event).aggregate(order=interactions["order"].min())


def histories(interactions: ir.Table, split: Split) -> ir.Table:
    """Interactions with `position`, `n` and `late`, and the columns that the split needs.

    `position` is 0-based, in order of time; `n` is the number of interactions of the user; `late`
    says that the raw files have the interaction after one of a later time.
    """
    # `order` breaks ties of time, so the result does not depend on the engine.
    order = [interactions.timestamp, interactions["order"]]
    by_time = ibis.window(group_by=interactions.user_id, order_by=order)
    # Ordered as `by_time`, though no column needs it, so both windows can share one sort.
    whole = ibis.window(
        group_by=interactions.user_id, order_by=order, preceding=None, following=None
    )

    placed = interactions.mutate(
        position=ibis.row_number().over(by_time).cast("int64"),
        n=interactions.count().over(whole),
        late=(interactions["order"] < interactions["order"].lag().over(by_time)).fill_null(False),
        **split.user_columns(interactions.timestamp, whole),
    )
    # From here on `position` is the order.
    return placed.drop("order")


def kept(histories: ir.Table, split: Split) -> ir.Table:
    """The histories of users that the split keeps."""
    return histories.filter(split.keeps(histories))


def counts(kept: ir.Table, split: Split) -> ir.Table:
    """(item_id, event, rows, training): all interactions of kept users, and the training ones."""
    training = (kept.position < split.training_end(kept)).cast("int64")
    by = ["item_id"]
    if "event" in kept.columns:
        by.append("event")
    return (
        kept.mutate(training=training)
        .group_by(by)
        .aggregate(rows=lambda t: t.count(), training=lambda t: t.training.sum())
    )


def summed(counts: ir.Table) -> ir.Table:
    """One row per item, or per item and event, from `counts` of several buckets."""
    by = [name for name in counts.columns if name not in ("rows", "training")]
    sums = {name: counts[name].sum().cast("int64") for name in ("rows", "training")}
    return counts.group_by(by).aggregate(**sums)


def permutation(catalogue: ir.Table, counts: ir.Table, seed: int) -> ir.Table:
    """(item_id, frequency, item): row ids; any block of them has its share of every frequency.

    Items are ranked by frequency, and rank r is placed in the order of frac(r * phi + offset),
    with an offset that depends on the seed. Multiples of the golden ratio are spread evenly at
    every scale, so every row-wise shard gets the same traffic.
    """
    # Items that nobody has seen in training have frequency 0 and a row id all the same.
    trained = counts.group_by("item_id").aggregate(frequency=counts.training.sum())
    counted = catalogue.select("item_id").left_join(trained, "item_id").drop("item_id_right")
    counted = counted.mutate(frequency=counted.frequency.fill_null(0).cast("int64"))

    # Ties are broken by id: the ranks are a function of the data.
    by_frequency = ibis.window(order_by=[ibis.desc(counted.frequency), counted.item_id])
    ranked = counted.mutate(_rank=ibis.row_number().over(by_frequency).cast("int64"))

    # Modulo 2^32 the multiplication by an odd number is one to one, so no two keys are equal.
    offset = (seed * 0x9E3779B97F4A7C15 >> 16) % _RANGE
    keyed = ranked.mutate(_key=(ranked._rank * _GOLDEN + offset) % _RANGE)
    placed = keyed.mutate(
        item=ibis.row_number().over(ibis.window(order_by=keyed._key)).cast("int32")
    )
    return placed.select("item_id", "frequency", "item")


def items(catalogue: ir.Table, numbered: ir.Table) -> ir.Table:
    """The rows of `items.parquet`: catalogue, `item` and `frequency`, in order of `item`."""
    first = ["item", "item_id", "frequency", "title"]
    others = [name for name in catalogue.columns if name not in first]
    table = catalogue.inner_join(numbered, "item_id")
    return table.select(*first, *others).order_by("item")


def steps(kept: ir.Table, ids: ir.Table) -> ir.Table:
    """The interactions of kept users as sequences hold them, in order of user id, then of time.

    Columns: `items` (int32), `timestamps` (int64) and, with events, `events` (int8).
    """
    numbered = kept.inner_join(ids, "item_id").order_by(["user_id", "position"])
    columns = {"items": numbered.item.cast("int32"), "timestamps": numbered.timestamp.cast("int64")}
    if "event" in kept.columns:
        columns["events"] = numbered.event.cast("int8")
    return numbered.select(**columns)


def users(kept: ir.Table, groups: ir.Table | None, split: Split) -> ir.Table:
    """(user_id, n, user_group, columns of the split) of kept users, in order of user id.

    Args:
        groups: (user_id, group); without it there is no `user_group`.
    """
    ends = {name: kept[name].cast("int32") for name in split.columns}
    table = kept.filter(kept.position == 0).select("user_id", "n", **ends)
    if groups is not None:
        # A user may have several labels, but a sequence holds one group: the smallest number.
        first = groups.group_by("user_id").aggregate(user_group=groups.group.min())
        table = table.left_join(first, "user_id").drop("user_id_right")
    return table.order_by("user_id")


def eligible(counts: ir.Table, ids: ir.Table, groups: ir.Table) -> ir.Table:
    """(item, group) of items that had the event of a group in training, in order."""
    # Validation and test interactions must not decide what may be retrieved.
    seen = counts.filter(counts.training > 0).select("item_id", "event").distinct()
    pairs = seen.inner_join(ids, "item_id").inner_join(groups, "event")
    return pairs.select("item", "group").order_by(["item", "group"])


def members(labels: Labels, entities: ir.Table, entity: str) -> ir.Table:
    """(entity, label), with the label of the remainder group for every entity without a label.

    Args:
        labels: original id -> label.
        entities: every entity that exists; a column is named `entity`.
        entity: `item_id` or `user_id`.
    """
    table = labelled(labels, entity)
    # Labels of entities that were left out are dropped.
    known = table.inner_join(entities.select(entity), entity)
    unlabelled = entities.select(entity).anti_join(table, entity)
    return known.union(unlabelled.mutate(label=ibis.literal(labels.remainder)))


def labelled(labels: Labels, entity: str) -> ir.Table:
    """(entity, label), each pair once; an empty label counts as no label."""
    table = labels.table
    return (
        table.filter(table.label.notnull(), table.label.strip() != "")
        .select(entity, "label")
        .distinct()
    )


def group_sizes(member: ir.Table, entity: str) -> ir.Table:
    """(label, size) in the order of group numbers: by size, then by smallest original id."""
    sizes = member.group_by("label").aggregate(size=member.count(), smallest=member[entity].min())
    return sizes.order_by([ibis.desc("size"), "smallest", "label"]).select("label", "size")
