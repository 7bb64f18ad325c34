"""Computes the edges between items or users from training interactions, with Ibis expressions.

In a large log there are too many pairs to store them all. Therefore pairs are counted for one range
of nodes at a time (`ranges`, `near`). A range is small enough to fit into memory, and only the
strongest edges of each range are stored. `pairs` and `strongest` are a plain reference
implementation with the same result.

Nodes are numbered in the order of original ids, so the result does not depend on row ids.
"""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.expressions import bounds
from torchrec_priors.prepared.sequences import TRAINING_END

# The product of two numbers below this prime fits into int64.
_PRIME = 2**31 - 1


@dataclass(frozen=True)
class Weight:
    """How edges are weighted.

    Attributes:
        kind: one of `WEIGHTS` of the settings. `equal` edges are counted like `shared` ones here,
            so that the strongest neighbours are the same.
        occurrences: a table of (node, occurrences).
        total: the number of users or items that nodes can share.
    """

    kind: str
    occurrences: ir.Table
    total: int

    def of(self, edges: ir.Table) -> ir.Table:
        """Replaces the number of shared users or items in the column `weight` by the weight."""
        if self.kind in ("shared", "equal"):
            return edges

        of_node = self.occurrences.rename(a="occurrences")
        of_other = self.occurrences.rename(other="node", b="occurrences")
        known = edges.inner_join(of_node, "node").inner_join(of_other, "other")
        # The product is an integer, so both ends of an edge compute exactly the same weight.
        product = (known.a * known.b).cast("float64")
        if self.kind == "cosine":
            weight = known.weight / product.sqrt()
        else:
            weight = (known.weight * float(self.total) / product).ln()
        return known.select("node", "other", weight=weight)


def nodes(entities: ir.Table, column: str) -> ir.Table:
    """Adds the column `node`, which numbers rows from 0 in the order of the ids in `column`."""
    numbered: ir.Table = entities.mutate(
        node=ibis.row_number().over(ibis.window(order_by=entities[column]))
    )
    return numbered


def training(sequences: ir.Table, horizon: int, last: int | None) -> ir.Table:
    """Returns the distinct pairs of (user_id, item) in the training part.

    The training part is all but the last 2E interactions of each user, where E is the horizon. If
    the log is split by time, it is the interactions before `training_end`.

    Args:
        sequences: a table of `user_id`, and `items` in order of time.
        horizon: the horizon E.
        last: how many of each user's latest training interactions are used. If None, all are.
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
    """Draws at most `limit` rows of `members` at random for each value in column `by`.

    The draw does not depend on the order of the rows.

    Args:
        members: a table with the two columns `entity` and `by`, both indices of nodes.
        entity: the name of the column of items or users.
        by: the name of the column of users or items that these share.
        limit: the maximum number of rows for one value of `by`.
        seed: the seed of the draw.
    """
    # A hash replaces the random numbers of the engine, so the draw is the same on every engine. If
    # hashes are equal, the smaller node is drawn first.
    drawn = _random(members[entity], members[by], seed)
    place = ibis.row_number().over(
        ibis.window(group_by=members[by], order_by=[drawn, members[entity]])
    )
    ranked = members.mutate(_place=place)
    return ranked.filter(ranked._place < limit).select(*members.columns)


def pairs(members: ir.Table, entity: str, shared: str) -> ir.Table:
    """Returns all pairs of items or users that share anything.

    Args:
        members: a table with the two columns `entity` and `shared`.
        entity: the name of the column of items or users.
        shared: the name of the column of users or items that these share.

    Returns:
        A table of (first, second, weight) with first < second. The weight is the number of shared
        users or items.
    """
    left = members.select(first=members[entity], by=members[shared])
    right = members.select(second=members[entity], by=members[shared])
    both = left.join(right, [left.by == right.by, left.first < right.second])
    counted: ir.Table = both.group_by("first", "second").aggregate(weight=both.count())
    return counted


def ranges(members: ir.Table, shared: str, at_once: int) -> ir.Table:
    """Divides the nodes into ranges, and returns the first node of each range in order.

    Args:
        members: a table of `node` and `shared`.
        shared: the name of the column of users or items that the nodes share.
        at_once: the approximate number of pairs in a range.
    """
    sizes = members.group_by(shared).aggregate(size=members.count())
    # A node has a pair with every other node that has the same value in `shared`.
    joined = members.inner_join(sizes, shared)
    pairs_of_node = joined.group_by("node").aggregate(n=lambda t: t.size.sum())

    # `bounds` divides users by their numbers of interactions. Here it divides nodes by pairs.
    return bounds(pairs_of_node.rename(user_id="node"), at_once)


def occurrences(members: ir.Table, shared: str) -> ir.Table:
    """Returns (node, occurrences), the number of values in the column `shared` of each node."""
    return members.group_by("node").aggregate(occurrences=members[shared].count())


def near(
    members: ir.Table,
    shared: str,
    first: int,
    last: int | None,
    neighbours: int | None,
    weight: Weight | None = None,
) -> ir.Table:
    """Returns the edges of a range of nodes.

    Args:
        members: a table of `node` and `shared`.
        shared: the name of the column of users or items that the nodes share.
        first: the first node of the range.
        last: the first node after the range; None for all nodes from `first` on.
        neighbours: the number of each node's strongest neighbours to which the edges are kept. If
            None, the edges to all neighbours with a larger number are kept.
        weight: how edges are weighted. None stands for the number of values that the ends share.

    Returns:
        A table of (first, second, weight) with first < second.
    """
    in_range = members.filter(members.node >= first)
    if last is not None:
        in_range = in_range.filter(in_range.node < last)

    left = in_range.select(node=in_range.node, by=in_range[shared])
    right = members.select(other=members.node, by=members[shared])

    # Each edge is counted at its smaller node only. But to find the strongest neighbours of a node,
    # edges to smaller nodes are also needed.
    meet = left.node < right.other
    if neighbours is not None:
        meet = left.node != right.other
    met = left.inner_join(right, [left.by == right.by, meet])
    edges = met.group_by("node", "other").aggregate(weight=lambda t: t.count())
    if weight is not None:
        edges = weight.of(edges)

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
    """Keeps the edges that are among the strongest `neighbours` edges of at least one end.

    Of equally strong edges, the edge to the smaller node is kept.
    """
    ends = [
        edges.select(node=edges[node], other=edges[other], weight=edges.weight)
        for node, other in (("first", "second"), ("second", "first"))
    ]
    # This table has every edge twice, once for each end.
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
    """Returns a pseudo-random number in [0, 2^31 - 1) for two numbers and a seed.

    It is the same on every engine. Each of two rounds multiplies, adds and takes the fifth power.
    """
    mixed = _fifth_power(
        first.cast("int64") * 48271 + second.cast("int64") * 1_103_515 + (seed % _PRIME) + 12_345
    )
    return _fifth_power(mixed * 69_621 + second.cast("int64"))


def _fifth_power(value: ir.IntegerValue) -> ir.IntegerValue:
    """Returns the fifth power modulo the prime.

    This is a permutation, because 5 does not divide the prime minus one.
    """
    x = value % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME
