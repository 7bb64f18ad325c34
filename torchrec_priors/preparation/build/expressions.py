"""Computes the tables of a prepared data set with Ibis expressions.

The expressions give the same rows in the same order on DuckDB and on Spark.

A `Split` decides which interactions are for training, validation and test. Statistics of the log,
such as frequencies, use training interactions only.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus, Labels

# This is 2^32 divided by the golden ratio, rounded to an odd number. Its multiples modulo 2^32 fill
# the interval evenly (Fibonacci hashing).
_GOLDEN = 2_654_435_769
_RANGE = 2**32


def union(tables: Sequence[ir.Table]) -> ir.Table:
    """Returns the rows of one or more tables with the same columns."""
    if len(tables) == 1:
        return tables[0]
    return tables[0].union(*tables[1:])


def log(corpus: Corpus) -> ir.Table:
    """Returns the interactions of a corpus with the columns that preparation uses."""
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
    """Returns the first `user_id` of each bucket, in order.

    Args:
        users: a table of `user_id` and `n`, the number of the user's interactions.
        rows: the approximate number of interactions in a bucket.
    """
    up_to_user = ibis.window(order_by=users.user_id, preceding=None, following=0)
    # The position of a user's first interaction decides the bucket, so a user is never divided.
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
    """Finds the bucket of a user by bisection.

    Args:
        first: the first user of each bucket except the lowest one.
        lowest: the index of the lowest bucket.
    """
    if not first:
        return ibis.literal(lowest, "int32")

    middle = len(first) // 2
    below = bucket_of(user_id, first[:middle], lowest)
    above = bucket_of(user_id, first[middle + 1 :], lowest + middle + 1)
    return ibis.ifelse(user_id < first[middle], below, above)


def without_repeats(interactions: ir.Table) -> ir.Table:
    """Removes repeated events, which have the same user, item, time and type of event.

    An event keeps its first position in the raw files.
    """
    event = [name for name in interactions.columns if name != "order"]
    return interactions.group_by(event).aggregate(order=interactions["order"].min())


def histories(interactions: ir.Table, split: Split) -> ir.Table:
    """Adds columns about the user's history to interactions.

    The new columns are:

    - `position`: the 0-based position of the interaction in the user's history, sorted by time,
    - `n`: the number of interactions of the user,
    - `late`: whether the raw files contain this interaction before the user's previous one,
    - the columns of `Split.user_columns`.
    """
    # `order` breaks ties between equal times, so the result does not depend on the engine.
    order = [interactions.timestamp, interactions["order"]]
    by_time = ibis.window(group_by=interactions.user_id, order_by=order)
    # This window needs no order. It has the order of `by_time`, so that both windows can share one
    # sort.
    whole = ibis.window(
        group_by=interactions.user_id, order_by=order, preceding=None, following=None
    )

    placed = interactions.mutate(
        position=ibis.row_number().over(by_time).cast("int64"),
        n=interactions.count().over(whole),
        late=(interactions["order"] < interactions["order"].lag().over(by_time)).fill_null(False),
        **split.user_columns(interactions.timestamp, whole),
    )
    # `position` replaces `order` from here on.
    return placed.drop("order")


def kept(histories: ir.Table, split: Split) -> ir.Table:
    """Returns the histories of users that the split keeps."""
    return histories.filter(split.keeps(histories))


def counts(kept: ir.Table, split: Split) -> ir.Table:
    """Counts the interactions of kept users by item, and by event if there are events.

    The result has the columns `item_id`, `event`, `rows` (the number of all interactions) and
    `training` (the number of training interactions).
    """
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
    """Adds up the results of `counts` for several buckets."""
    by = [name for name in counts.columns if name not in ("rows", "training")]
    sums = {name: counts[name].sum().cast("int64") for name in ("rows", "training")}
    return counts.group_by(by).aggregate(**sums)


def permutation(catalogue: ir.Table, counts: ir.Table, seed: int) -> ir.Table:
    """Assigns row ids (`item`) to items such that every block of row ids gets the same traffic.

    Items are ranked by frequency, and rank r is placed in the order of frac(r * phi + offset),
    with an offset that depends on the seed. Multiples of the golden ratio phi are spread evenly at
    every scale, so every row-wise shard has about as many frequent and rare items as the others.

    Returns:
        A table of (item_id, frequency, item).
    """
    # Items without training interactions have frequency 0 and also get a row id.
    trained = counts.group_by("item_id").aggregate(frequency=counts.training.sum())
    counted = catalogue.select("item_id").left_join(trained, "item_id").drop("item_id_right")
    counted = counted.mutate(frequency=counted.frequency.fill_null(0).cast("int64"))

    # Equally frequent items are ranked by id, so ranks depend only on the data.
    by_frequency = ibis.window(order_by=[ibis.desc(counted.frequency), counted.item_id])
    ranked = counted.mutate(_rank=ibis.row_number().over(by_frequency).cast("int64"))

    # Multiplication by an odd number is one-to-one modulo 2^32, so all keys differ.
    offset = (seed * 0x9E3779B97F4A7C15 >> 16) % _RANGE
    keyed = ranked.mutate(_key=(ranked._rank * _GOLDEN + offset) % _RANGE)
    placed = keyed.mutate(
        item=ibis.row_number().over(ibis.window(order_by=keyed._key)).cast("int32")
    )
    return placed.select("item_id", "frequency", "item")


def items(catalogue: ir.Table, numbered: ir.Table) -> ir.Table:
    """Returns the table of `items.parquet`: the catalogue with `item` and `frequency`.

    The rows are in order of `item`.
    """
    first = ["item", "item_id", "frequency", "title"]
    others = [name for name in catalogue.columns if name not in first]
    table = catalogue.inner_join(numbered, "item_id")
    return table.select(*first, *others).order_by("item")


def steps(kept: ir.Table, ids: ir.Table) -> ir.Table:
    """Returns the interactions of kept users, sorted by user id and, within a user, by time.

    The columns are those of sequences: `items` (int32), `timestamps` (int64) and, if the corpus has
    events, `events` (int8).
    """
    numbered = kept.inner_join(ids, "item_id").order_by(["user_id", "position"])
    columns = {"items": numbered.item.cast("int32"), "timestamps": numbered.timestamp.cast("int64")}
    if "event" in kept.columns:
        columns["events"] = numbered.event.cast("int8")
    return numbered.select(**columns)


def users(kept: ir.Table, groups: ir.Table | None, split: Split) -> ir.Table:
    """Returns one row for each kept user, in order of user id.

    The columns are `user_id`, `n`, `user_group` and those of the split.

    Args:
        groups: a table of (user_id, group). If None, `user_group` is left out.
    """
    ends = {name: kept[name].cast("int32") for name in split.columns}
    table = kept.filter(kept.position == 0).select("user_id", "n", **ends)
    if groups is not None:
        # A user may have several groups, but a sequence stores only the one with the smallest
        # number.
        first = groups.group_by("user_id").aggregate(user_group=groups.group.min())
        table = table.left_join(first, "user_id").drop("user_id_right")
    return table.order_by("user_id")


def eligible(counts: ir.Table, ids: ir.Table, groups: ir.Table) -> ir.Table:
    """Returns all pairs of (item, group) in which the item had the group's event in training."""
    # Validation and test interactions must not decide which items may be retrieved.
    seen = counts.filter(counts.training > 0).select("item_id", "event").distinct()
    pairs = seen.inner_join(ids, "item_id").inner_join(groups, "event")
    return pairs.select("item", "group").order_by(["item", "group"])


def members(labels: Labels, entities: ir.Table, entity: str) -> ir.Table:
    """Returns the pairs of (entity, label) of all entities, which are items or users.

    Entities without a label get the label of the remainder group.

    Args:
        labels: the labels by original id.
        entities: a table of all existing entities, with the id column.
        entity: the name of the id column: `item_id` or `user_id`.
    """
    table = labelled(labels, entity)
    # Labels of entities that do not exist in the data set are dropped.
    known = table.inner_join(entities.select(entity), entity)
    unlabelled = entities.select(entity).anti_join(table, entity)
    return known.union(unlabelled.mutate(label=ibis.literal(labels.remainder)))


def labelled(labels: Labels, entity: str) -> ir.Table:
    """Returns the distinct pairs of (entity, label). An empty label counts as no label."""
    table = labels.table
    return (
        table.filter(table.label.notnull(), table.label.strip() != "")
        .select(entity, "label")
        .distinct()
    )


def group_sizes(member: ir.Table, entity: str) -> ir.Table:
    """Returns a table of (label, size) in the order of group numbers.

    The largest group comes first. Equally large groups are in the order of their smallest original
    ids.
    """
    sizes = member.group_by("label").aggregate(size=member.count(), smallest=member[entity].min())
    return sizes.order_by([ibis.desc("size"), "smallest", "label"]).select("label", "size")
