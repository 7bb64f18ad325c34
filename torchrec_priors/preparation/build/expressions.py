"""The prepared data set as Ibis expressions, engine-neutral: the same rows in the same order on DuckDB and on Spark.

What is training, validation and test is up to a `Split`. Everything computed from data reads training interactions
alone.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus, Labels

# 2^32 / golden ratio, odd: multiples of it modulo 2^32 fill the interval evenly (Fibonacci hashing).
_GOLDEN = 2_654_435_769
_RANGE = 2**32


def union(tables: Sequence[ir.Table]) -> ir.Table:
    """The rows of one or more tables of the same columns."""
    return tables[0].union(*tables[1:]) if len(tables) > 1 else tables[0]


def log(corpus: Corpus) -> ir.Table:
    """The interactions, with the columns that count."""
    columns = ["user_id", "item_id", "timestamp", "order", *(["event"] if corpus.events else [])]
    table = corpus.interactions
    return table.select(
        **{
            name: table[name].cast("int64") if name in ("timestamp", "order") else table[name]
            for name in columns
        }
    )


def bounds(users: ir.Table, rows: int) -> ir.Table:
    """First `user_id` of each bucket: ranges of users in order, of about `rows` interactions; ordered.

    Args:
        users: `user_id` and `n`, their interactions.
    """
    upto = ibis.window(order_by=users.user_id, preceding=None, following=0)
    placed = users.mutate(
        bucket=((users.n.sum().over(upto) - users.n) / rows).floor().cast("int64")
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
        first: user of each bucket but the first one.
    """
    if not first:
        return ibis.literal(lowest, "int32")
    middle = len(first) // 2
    below = bucket_of(user_id, first[:middle], lowest)
    return ibis.ifelse(
        user_id < first[middle], below, bucket_of(user_id, first[middle + 1 :], lowest + middle + 1)
    )


def without_repeats(interactions: ir.Table) -> ir.Table:
    """Each event once, at its first place: the same user, item, time and kind of event."""
    event = [name for name in interactions.columns if name != "order"]
    return interactions.group_by(event).aggregate(order=interactions["order"].min())


def histories(interactions: ir.Table, split: Split) -> ir.Table:
    """Interactions with `position` (0-based, in time) and `n` of their user; `late`: raw files have it too late.

    With them the columns that the split needs of each user.
    """
    order = [interactions.timestamp, interactions["order"]]
    by_time = ibis.window(group_by=interactions.user_id, order_by=order)
    whole = ibis.window(
        group_by=interactions.user_id, order_by=order, preceding=None, following=None
    )
    placed = interactions.mutate(
        position=ibis.row_number().over(by_time).cast("int64"),
        n=interactions.count().over(whole),
        late=(interactions["order"] < interactions["order"].lag().over(by_time)).fill_null(False),
        **split.of_user(interactions.timestamp, whole),
    )
    return placed.drop("order")


def kept(histories: ir.Table, split: Split) -> ir.Table:
    """Those of users whom the split keeps."""
    return histories.filter(split.keeps(histories))


def counts(kept: ir.Table, split: Split) -> ir.Table:
    """(item_id, event, rows, training) of kept users: interactions, and those of them that are for training."""
    training = (kept.position < split.training_end(kept)).cast("int64")
    by = ["item_id", *(["event"] if "event" in kept.columns else [])]
    return (
        kept.mutate(training=training)
        .group_by(by)
        .aggregate(rows=lambda t: t.count(), training=lambda t: t.training.sum())
    )


def summed(counts: ir.Table) -> ir.Table:
    """One row for each item, or item and event, of `counts` of several parts."""
    by = [name for name in counts.columns if name not in ("rows", "training")]
    sums = {name: counts[name].sum().cast("int64") for name in ("rows", "training")}
    return counts.group_by(by).aggregate(**sums)


def permutation(catalogue: ir.Table, counts: ir.Table, seed: int) -> ir.Table:
    """(item_id, frequency, item): row ids, a permutation in which any block of them has its share of every frequency.

    Items are ranked by frequency; rank r goes where frac(r * phi + seed-dependent offset) falls among all. Multiples
    of the golden ratio are evenly spread at every scale, so every row-wise shard gets the same traffic.
    """
    trained = counts.group_by("item_id").aggregate(frequency=counts.training.sum())
    counted = catalogue.select("item_id").left_join(trained, "item_id").drop("item_id_right")
    counted = counted.mutate(frequency=counted.frequency.fill_null(0).cast("int64"))
    offset = (seed * 0x9E3779B97F4A7C15 >> 16) % _RANGE
    by_frequency = ibis.window(order_by=[ibis.desc(counted.frequency), counted.item_id])
    ranked = counted.mutate(_rank=ibis.row_number().over(by_frequency).cast("int64"))
    keyed = ranked.mutate(_key=(ranked._rank * _GOLDEN + offset) % _RANGE)
    placed = keyed.mutate(
        item=ibis.row_number().over(ibis.window(order_by=keyed._key)).cast("int32")
    )
    return placed.select("item_id", "frequency", "item")


def items(catalogue: ir.Table, numbered: ir.Table) -> ir.Table:
    """`items.parquet`: the catalogue with `item` and `frequency`, in order of `item`."""
    first = ["item", "item_id", "frequency", "title"]
    table = catalogue.inner_join(numbered, "item_id")
    return table.select(
        *first, *(name for name in catalogue.columns if name not in first)
    ).order_by("item")


def steps(kept: ir.Table, ids: ir.Table) -> ir.Table:
    """What the sequences of kept users are made of, user by user in order of user id, in order of time.

    Columns: `items` (int32), `timestamps` (int64) and, with events, `events` (int8).
    """
    numbered = kept.inner_join(ids, "item_id").order_by(["user_id", "position"])
    columns = {"items": numbered.item.cast("int32"), "timestamps": numbered.timestamp.cast("int64")}
    if "event" in kept.columns:
        columns["events"] = numbered.event.cast("int8")
    return numbered.select(**columns)


def users(kept: ir.Table, groups: ir.Table | None, split: Split) -> ir.Table:
    """(user_id, n, user_group, columns of the split) of kept users, in order of user id; without `groups`, no
    `user_group`."""
    ends = {name: kept[name].cast("int32") for name in split.columns}
    table = kept.filter(kept.position == 0).select("user_id", "n", **ends)
    if groups is not None:
        first = groups.group_by("user_id").aggregate(user_group=groups.group.min())
        table = table.left_join(first, "user_id").drop("user_id_right")
    return table.order_by("user_id")


def eligible(counts: ir.Table, ids: ir.Table, groups: ir.Table) -> ir.Table:
    """(item, group) of items that saw the event of a group in training; ordered."""
    seen = counts.filter(counts.training > 0).select("item_id", "event").distinct()
    pairs = seen.inner_join(ids, "item_id").inner_join(groups, "event")
    return pairs.select("item", "group").order_by(["item", "group"])


def members(labels: Labels, entities: ir.Table, entity: str) -> ir.Table:
    """(entity, label) with the remainder group for every entity without a label.

    Args:
        labels: original id -> label.
        entities: every entity that exists, a column named `entity` among others.
        entity: `item_id` or `user_id`.
    """
    table = labelled(labels, entity)
    known = table.inner_join(entities.select(entity), entity)
    unlabelled = entities.select(entity).anti_join(table, entity)
    return known.union(unlabelled.mutate(label=ibis.literal(labels.remainder)))


def labelled(labels: Labels, entity: str) -> ir.Table:
    """(entity, label), each once; an empty label is none."""
    table = labels.table
    return (
        table.filter(table.label.notnull(), table.label.strip() != "")
        .select(entity, "label")
        .distinct()
    )


def group_sizes(member: ir.Table, entity: str) -> ir.Table:
    """(label, size), by size, then by smallest original id: the order in which groups are numbered."""
    sizes = member.group_by("label").aggregate(size=member.count(), smallest=member[entity].min())
    return sizes.order_by([ibis.desc("size"), "smallest", "label"]).select("label", "size")
