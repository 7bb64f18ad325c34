"""Builds edges from who engaged with what in training, as Ibis expressions for an engine.

All pairs of a large log would need whole disks. So the pairs are counted for a range of nodes at a
time (`ranges`, `near`), the number that fits into memory, and only the edges that stay are kept of
each range. `pairs` and `strongest` are the plain reference for the same result.

Nodes are numbered in the order of original ids: nothing depends on the permutation of row ids.
"""

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.expressions import bounds
from torchrec_priors.prepared.data_set import TRAINING_END

_PRIME = 2**31 - 1  # products of two numbers below it fit into int64


def nodes(entities: ir.Table, column: str) -> ir.Table:
    """Returns `entities` with `node`, 0-based, in the order of the original ids in `column`."""
    numbered: ir.Table = entities.mutate(
        node=ibis.row_number().over(ibis.window(order_by=entities[column]))
    )
    return numbered


def training(sequences: ir.Table, horizon: int, last: int | None) -> ir.Table:
    """Returns the distinct (user_id, item) of the training part.

    That is all but the last 2E interactions of each user or, if the log is split in time, the
    interactions before `training_end`.

    Args:
        sequences: `user_id`, and `items` in order of time.
        horizon: E.
        last: Number of training interactions of a user that count, the latest. None counts all.
    """
    items = sequences["items"]
    end = items.length() - 2 * horizon
    if TRAINING_END in sequences.columns:
        end = sequences[TRAINING_END]

    start = ibis.literal(0)
    if last is not None:
        start = ibis.greatest(end - last, 0)

    seen = sequences.select("user_id", item=items[start:end].unnest())
    return seen.distinct()


def at_most(members: ir.Table, entity: str, by: str, limit: int, seed: int) -> ir.Table:
    """Returns at most `limit` rows of `members` for each `by`, drawn at random.

    The draw does not depend on the order of the rows.

    Args:
        members: Columns `entity` and `by`, both numbers of nodes.
        entity: Column of the entities.
        by: Column of what they share.
        limit: Most rows for one value of `by`.
        seed: Seed of the draw.
    """
    # A hash instead of an engine's random numbers: the draw is the same on every engine. Entities
    # with equal hashes are taken by number.
    drawn = _random(members[entity], members[by], seed)
    place = ibis.row_number().over(
        ibis.window(group_by=members[by], order_by=[drawn, members[entity]])
    )
    ranked = members.mutate(_place=place)
    return ranked.filter(ranked._place < limit).select(*members.columns)


def pairs(members: ir.Table, entity: str, shared: str) -> ir.Table:
    """Returns (first, second, weight): every two entities that share anything, first < second.

    The weight is how much they share.
    """
    left = members.select(first=members[entity], by=members[shared])
    right = members.select(second=members[entity], by=members[shared])
    both = left.join(right, [left.by == right.by, left.first < right.second])
    counted: ir.Table = both.group_by("first", "second").aggregate(weight=both.count())
    return counted


def ranges(members: ir.Table, shared: str, at_once: int) -> ir.Table:
    """Returns the first `node` of each range of nodes that have about `at_once` pairs, ordered.

    Args:
        members: Columns `node` and `shared`.
        shared: Column of what the nodes share.
        at_once: Pairs in a range.
    """
    sizes = members.group_by(shared).aggregate(size=members.count())
    # A node has a pair with every member of everything that it has.
    joined = members.inner_join(sizes, shared)
    pairs_of_node = joined.group_by("node").aggregate(n=lambda t: t.size.sum())

    # `bounds` divides users by their interactions: nodes take the place of users.
    return bounds(pairs_of_node.rename(user_id="node"), at_once)


def near(
    members: ir.Table, shared: str, first: int, last: int | None, neighbours: int | None
) -> ir.Table:
    """Returns (first, second, weight): the edges of some nodes, first < second.

    Args:
        members: Columns `node` and `shared`.
        shared: Column of what the nodes share.
        first: First of the nodes.
        last: The node after the last of them; None for all nodes from `first` on.
        neighbours: Keep the edges to so many strongest neighbours of each node. None keeps the
            edges to all larger nodes.
    """
    in_range = members.filter(members.node >= first)
    if last is not None:
        in_range = in_range.filter(in_range.node < last)

    left = in_range.select(node=in_range.node, by=in_range[shared])
    right = members.select(other=members.node, by=members[shared])

    # Each edge once, unless the strongest of a node are wanted: smaller nodes may be among them.
    meet = left.node < right.other
    if neighbours is not None:
        meet = left.node != right.other
    met = left.inner_join(right, [left.by == right.by, meet])
    edges = met.group_by("node", "other").aggregate(weight=lambda t: t.count())

    # Of equally strong neighbours, the one with the smaller number is kept.
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
    """Returns the edges that are among the strongest `neighbours` of either end.

    Of equally strong edges, the one to the smaller node is kept.
    """
    ends = [
        edges.select(node=edges[node], other=edges[other], weight=edges.weight)
        for node, other in (("first", "second"), ("second", "first"))
    ]
    # Every edge twice, seen from each of its ends.
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


def _random(first: ir.IntegerValue, second: ir.IntegerValue, seed: int) -> ir.IntegerValue:
    """Returns a number in [0, 2^31 - 1) for two small numbers, the same on every engine.

    It is computed by multiply, add and fifth power, twice.
    """
    mixed = _fifth_power(
        first.cast("int64") * 48271 + second.cast("int64") * 1_103_515 + (seed % _PRIME) + 12_345
    )
    return _fifth_power(mixed * 69_621 + second.cast("int64"))


def _fifth_power(value: ir.IntegerValue) -> ir.IntegerValue:
    """Returns the power modulo a prime.

    5 does not divide the prime's predecessor, hence this is a permutation.
    """
    x = value % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME
