"""Who engaged with what in training -> edges, as Ibis expressions that the engine computes out of core.

All pairs of a large log would take disks. So they are counted for a range of nodes at a time (`ranges`, `near`), as
many as fit into memory, and of each range only the edges that stay are kept. `pairs` and `strongest` are the plain
reading of the same.

Nodes are numbered in the order of original ids, so that nothing depends on the permutation of row ids.
"""

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.expressions import bounds
from torchrec_priors.prepared.data_set import TRAINING_END

_PRIME = 2**31 - 1


def nodes(entities: ir.Table, column: str) -> ir.Table:
    """`entities` with `node`, 0-based, in the order of the original ids in `column`."""
    numbered: ir.Table = entities.mutate(
        node=ibis.row_number().over(ibis.window(order_by=entities[column]))
    )
    return numbered


def training(sequences: ir.Table, horizon: int, last: int | None) -> ir.Table:
    """Distinct (user_id, item) of the training part: all but the last 2E interactions of each user, or where the log is
    split in time what lies before `training_end`.

    Args:
        sequences: `user_id` and `items` in order of time.
        last: how many training interactions of a user count, the latest; None for all.
    """
    in_time = TRAINING_END in sequences.columns
    end = sequences[TRAINING_END] if in_time else sequences["items"].length() - 2 * horizon
    start = ibis.literal(0) if last is None else ibis.greatest(end - last, 0)
    seen = sequences.select("user_id", item=sequences["items"][start:end].unnest())
    return seen.distinct()


def at_most(members: ir.Table, entity: str, by: str, limit: int, seed: int) -> ir.Table:
    """For each `by` at most `limit` rows of `members`, drawn at random whatever order the rows come in.

    Args:
        members: `entity` and `by`, both numbers of nodes.
    """
    drawn = _random(members[entity], members[by], seed)
    place = ibis.row_number().over(
        ibis.window(group_by=members[by], order_by=[drawn, members[entity]])
    )
    ranked = members.mutate(_place=place)
    return ranked.filter(ranked._place < limit).select(*members.columns)


def pairs(members: ir.Table, entity: str, shared: str) -> ir.Table:
    """(first, second, weight): every two entities that share anything, first < second, and how much they share."""
    left = members.select(first=members[entity], by=members[shared])
    right = members.select(second=members[entity], by=members[shared])
    both = left.join(right, [left.by == right.by, left.first < right.second])
    counted: ir.Table = both.group_by("first", "second").aggregate(weight=both.count())
    return counted


def ranges(members: ir.Table, shared: str, at_once: int) -> ir.Table:
    """First `node` of each range of nodes that meet others about `at_once` times; ordered.

    Args:
        members: `node` and `shared`.
    """
    sizes = members.group_by(shared).aggregate(size=members.count())
    met = members.inner_join(sizes, shared).group_by("node").aggregate(n=lambda t: t.size.sum())
    return bounds(met.rename(user_id="node"), at_once)


def near(
    members: ir.Table, shared: str, first: int, last: int | None, neighbours: int | None
) -> ir.Table:
    """(first, second, weight): the edges of the nodes from `first` to before `last`, first < second.

    With `neighbours`, those to the strongest of each node; otherwise those to larger nodes.
    """
    mine = members.filter(members.node >= first)
    if last is not None:
        mine = mine.filter(mine.node < last)
    left = mine.select(node=mine.node, by=mine[shared])
    right = members.select(other=members.node, by=members[shared])
    meet = left.node < right.other if neighbours is None else left.node != right.other
    met = left.inner_join(right, [left.by == right.by, meet])
    edges = met.group_by("node", "other").aggregate(weight=lambda t: t.count())
    if neighbours is not None:
        order = ibis.window(group_by=edges.node, order_by=[ibis.desc(edges.weight), edges.other])
        ranked = edges.mutate(place=ibis.row_number().over(order))
        edges = ranked.filter(ranked.place < neighbours)
    return edges.select(
        first=ibis.least(edges.node, edges.other),
        second=ibis.greatest(edges.node, edges.other),
        weight=edges.weight,
    )


def strongest(edges: ir.Table, neighbours: int) -> ir.Table:
    """The edges that are among the strongest `neighbours` of either end; ties go to the smaller node."""
    ends = [
        edges.select(node=edges[one], other=edges[two], weight=edges.weight)
        for one, two in (("first", "second"), ("second", "first"))
    ]
    both = ends[0].union(ends[1])
    order = ibis.window(group_by=both.node, order_by=[ibis.desc(both.weight), both.other])
    ranked = both.mutate(place=ibis.row_number().over(order))
    kept = ranked.filter(ranked.place < neighbours)
    undirected = kept.select(
        first=ibis.least(kept.node, kept.other),
        second=ibis.greatest(kept.node, kept.other),
        weight=kept.weight,
    )
    return undirected.distinct()


def _random(one: ir.IntegerValue, two: ir.IntegerValue, seed: int) -> ir.IntegerValue:
    """A number of [0, 2^31 - 1) for two small numbers, the same on every engine: multiply, add, fifth power, twice."""
    mixed = _fifth_power(
        one.cast("int64") * 48271 + two.cast("int64") * 1_103_515 + (seed % _PRIME) + 12_345
    )
    return _fifth_power(mixed * 69_621 + two.cast("int64"))


def _fifth_power(value: ir.IntegerValue) -> ir.IntegerValue:
    """Modulo a prime whose predecessor 5 does not divide, hence a permutation."""
    x = value % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME
