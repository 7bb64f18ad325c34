"""Edges against a brute-force reading of the log."""

import collections
import itertools
import math

import ibis
import numpy as np
import pyarrow as pa
import pytest

from torchrec_priors.preparation.priors.communities import edges


def _log(users=30, items=25, horizon=2, seed=0):
    """User id -> items in order of time, with repeats."""
    random = np.random.default_rng(seed)
    return {
        100 + u: random.integers(0, items, 2 * horizon + random.integers(1, 20)).tolist()
        for u in range(users)
    }


def _table(log):
    rows = {"user_id": list(log), "items": pa.array(list(log.values()), pa.list_(pa.int32()))}
    return ibis.memtable(pa.table(rows))


_ENGINE = ibis.duckdb.connect(threads=1)


def _run(table):
    return [tuple(row.values()) for row in _ENGINE.to_pyarrow(table).to_pylist()]


def _brute_force(log, horizon, last):
    """{(first, second): users who have both among their last training items}."""
    counts = collections.Counter()
    for items in log.values():
        training = items[: len(items) - 2 * horizon]
        counts.update(
            itertools.combinations(sorted(set(training if last is None else training[-last:])), 2)
        )
    return counts


@pytest.mark.parametrize("last", [None, 1, 3, 100])
def test_pairs_of_items_weigh_as_many_as_the_users_that_share_them(last):
    log = _log()
    found = _run(edges.pairs(edges.training(_table(log), 2, last), "item", "user_id"))
    assert {(a, b): weight for a, b, weight in found} == _brute_force(log, 2, last)
    assert len(found) == len(_brute_force(log, 2, last))


def test_pairs_of_users_weigh_as_many_as_the_items_they_share():
    log = _log()
    found = _run(edges.pairs(edges.training(_table(log), 2, None), "user_id", "item"))
    sets = {user: set(items[:-4]) for user, items in log.items()}
    expected = {
        (a, b): len(sets[a] & sets[b])
        for a, b in itertools.combinations(log, 2)
        if sets[a] & sets[b]
    }
    assert {(a, b): weight for a, b, weight in found} == expected


@pytest.mark.parametrize("neighbours", [1, 2, 4, 100])
def test_an_edge_stays_if_either_end_keeps_it_and_ties_go_to_the_smaller(neighbours):
    log = _log(users=12)
    pairs = edges.pairs(edges.training(_table(log), 2, None), "item", "user_id")
    weights = _brute_force(log, 2, None)
    kept = {}
    for node in range(25):
        near = [
            (-weight, b if a == node else a) for (a, b), weight in weights.items() if node in (a, b)
        ]
        for weight, other in sorted(near)[:neighbours]:
            kept[min(node, other), max(node, other)] = -weight
    found = _run(edges.strongest(pairs, neighbours))
    assert len(found) == len(kept)
    assert {(a, b): weight for a, b, weight in found} == kept
    if neighbours < 3:
        assert len(kept) < len(weights), "nothing was pruned"


@pytest.mark.slow
@pytest.mark.parametrize("neighbours", [None, 1, 3, 100])
@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_edges_of_ranges_of_nodes_are_those_of_all_at_once(neighbours, at_once):
    training = edges.training(_table(_log(users=12, items=12)), 2, None)
    members = training.rename(node="item")
    whole = edges.pairs(members, "node", "user_id")
    if neighbours is not None:
        whole = edges.strongest(whole, neighbours)
    first = [node for (node,) in _run(edges.ranges(members, "user_id", at_once))]
    assert {1: len(first) > 10, 40: 1 < len(first) <= 12, 10**6: first == [0]}[at_once]
    found = [
        edge
        for low, high in zip(first, [*first[1:], None], strict=True)
        for edge in _run(edges.near(members, "user_id", low, high, neighbours))
    ]
    assert set(found) == set(_run(whole))
    if neighbours is None:
        assert len(found) == len(set(found))


def _members(users, items):
    rows = [(user, item) for user in range(users) for item in range(items)]
    return pa.table({"user": [user for user, _ in rows], "item": [item for _, item in rows]})


def test_at_most_so_many_users_of_an_item_are_drawn_whatever_order_the_rows_come_in():
    table = _members(500, 40)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    one, two = (
        set(_run(edges.at_most(ibis.memtable(rows), "user", "item", 50, 0)))
        for rows in (table, shuffled)
    )
    assert one == two
    assert set(collections.Counter(item for _, item in one).values()) == {50}
    other = set(_run(edges.at_most(ibis.memtable(table), "user", "item", 50, 1)))
    assert 0.05 < len(one & other) / len(one) < 0.16, "chance is a tenth"
    assert len(set(_run(edges.at_most(ibis.memtable(table), "user", "item", 500, 0)))) == len(table)


def test_users_are_drawn_evenly_and_independently_for_each_item():
    drawn = np.zeros((500, 40), bool)
    for user, item in _run(edges.at_most(ibis.memtable(_members(500, 40)), "user", "item", 50, 7)):
        drawn[user, item] = True
    times = drawn.sum(1)  # binomial(40, 1/10): mean 4, variance 3.6
    assert 2.9 < times.var() < 4.4
    together = drawn.T.astype(int) @ drawn
    assert abs(together[np.triu_indices(40, 1)].mean() - 5) < 0.5
    assert together[np.triu_indices(40, 1)].max() < 18, "two items draw the same users"


def test_nodes_are_in_the_order_of_original_ids():
    items = pa.table({"item": [0, 1, 2, 3], "item_id": ["b", "d", "a", "c"]})
    found = {
        item_id: node for _, item_id, node in _run(edges.nodes(ibis.memtable(items), "item_id"))
    }
    assert found == {"a": 0, "b": 1, "c": 2, "d": 3}


@pytest.mark.parametrize("neighbours", [None, 2])
@pytest.mark.parametrize("kind", ["shared", "equal", "cosine", "pmi"])
def test_weights_are_what_they_are_defined_as(kind, neighbours):
    log = _log(users=12, items=12)
    training = edges.training(_table(log), 2, None)
    members = training.rename(node="item")
    seen = {user: set(items[:-4]) for user, items in log.items()}
    count = collections.Counter(item for items in seen.values() for item in items)

    def weight(pair, shared):
        product = count[pair[0]] * count[pair[1]]
        if kind == "cosine":
            return shared / product**0.5
        if kind == "pmi":
            return math.log(shared * len(seen) / product)
        return shared

    expected = {pair: weight(pair, shared) for pair, shared in _brute_force(log, 2, None).items()}
    if neighbours is not None:
        kept = set()
        for node in range(12):
            ends = [(-w, b if a == node else a) for (a, b), w in expected.items() if node in (a, b)]
            near = sorted(ends, key=lambda end: (round(end[0], 9), end[1]))[:neighbours]
            kept |= {(min(node, other), max(node, other)) for _, other in near}
        expected = {pair: expected[pair] for pair in kept}

    weights = edges.Weight(kind, edges.occurrences(members, "user_id"), len(seen))
    found = _run(edges.near(members, "user_id", 0, None, neighbours, weights).distinct())
    assert {pair[:2]: pair[2] for pair in found} == pytest.approx(expected)
    assert len(found) == len(expected)
