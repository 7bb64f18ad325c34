"""Leiden against what is known of small graphs: modularity by its definition, connected communities, planted blocks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.preparation.communities.graph import Graph
from torchrec_priors.preparation.communities.leiden import _refine, leiden


def _graph(nodes, edges):
    """From {(first, second): weight}."""
    ends = np.array(list(edges), np.int64).reshape(-1, 2)
    return Graph.from_edges(nodes, ends[:, 0], ends[:, 1], np.array(list(edges.values()), np.int64))


def _modularity(nodes, edges, group, resolution):
    """Newman's definition, over all pairs of nodes."""
    a = np.zeros((nodes, nodes))
    for (first, second), weight in edges.items():
        a[first, second] = a[second, first] = weight
    k, total = a.sum(1), a.sum()
    same = np.equal.outer(group, group)
    return ((a - resolution * np.outer(k, k) / total) * same).sum() / total


def _is_connected(edges, members):
    reached, waiting = {members[0]}, [members[0]]
    while waiting:
        at = waiting.pop()
        near = {b if a == at else a for a, b in edges if at in (a, b)} & set(members) - reached
        reached |= near
        waiting += near
    return reached == set(members)


_edges = st.dictionaries(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda pair: pair[0] < pair[1]),
    st.integers(1, 9),
    min_size=1,
    max_size=24,
)


@settings(deadline=None, max_examples=100)
@given(_edges, st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 3))
def test_any_graph(edges, resolution, seed):
    """Communities are connected, no move of a node and no merge of two would gain, and modularity is as defined."""
    graph = _graph(9, edges)
    group = leiden(graph, resolution, seed)
    reached = _modularity(9, edges, group, resolution)
    assert graph.modularity(group, resolution) == pytest.approx(reached, abs=1e-12)
    for community in range(group.max() + 1):
        assert _is_connected(edges, np.flatnonzero(group == community).tolist())
    for node, to in itertools.product(range(9), range(group.max() + 2)):
        moved = group.copy()
        moved[node] = to
        assert _modularity(9, edges, moved, resolution) <= reached + 1e-9
    for one, two in itertools.combinations(range(group.max() + 1), 2):
        merged = np.where(group == one, two, group)
        assert _modularity(9, edges, merged, resolution) <= reached + 1e-9


def test_planted_blocks_are_found_whatever_the_seed():
    random, block = np.random.default_rng(0), np.repeat(np.arange(8), 25)
    near = np.equal.outer(block, block)
    first, second = np.nonzero(np.triu(random.random((200, 200)) < np.where(near, 0.4, 0.02), 1))
    graph = Graph.from_edges(200, first, second, np.ones(len(first)))
    for seed in range(5):
        assert leiden(graph, 1.0, seed).tolist() == block.tolist()


def test_a_seed_decides_and_nodes_without_edges_stay_alone():
    random = np.random.default_rng(1)
    first, second = np.nonzero(np.triu(random.random((150, 150)) < 0.05, 1))
    graph = Graph.from_edges(152, first, second, np.ones(len(first)))
    found = [leiden(graph, 1.0, seed).tolist() for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert any(other != found[0] for other in found[2:]), "the seed has no effect"
    assert all(groups.count(groups[node]) == 1 for groups in found for node in (150, 151))
    assert leiden(_graph(3, {}), 1.0, 0).tolist() == [0, 1, 2]


def test_a_merged_graph_has_the_modularity_of_its_groups():
    random = np.random.default_rng(2)
    first, second = np.nonzero(np.triu(random.random((40, 40)) < 0.2, 1))
    graph = Graph.from_edges(40, first, second, random.integers(1, 5, len(first)))
    group = random.integers(0, 6, 40)
    merged = graph.merged(group)
    assert merged.total == graph.total
    inside = graph.weights[group[graph.ends] == group[graph.neighbours]].sum()
    assert merged.weights.sum() + inside == graph.weights.sum()
    assert merged.strength.tolist() == np.bincount(group, weights=graph.strength).tolist()


def _sparse(seed):
    random = np.random.default_rng(seed)
    first, second = np.nonzero(np.triu(random.random((300, 300)) < 0.006, 1))
    weight = random.integers(1, 6, len(first))
    return Graph.from_edges(300, first, second, weight), list(zip(first.tolist(), second.tolist(), strict=True))


def test_refinement_takes_apart_what_nothing_joins_and_leaves_no_group():
    graph, edges = _sparse(0)
    group = np.random.default_rng(0).integers(0, 3, 300)
    part = _refine(graph, group, 1.0, np.random.Generator(np.random.Philox(0)))
    assert 3 < len(set(part)) < 280
    for members in (np.flatnonzero(part == number).tolist() for number in set(part)):
        assert len(set(group[members])) == 1
        assert _is_connected(edges, members)


def test_communities_are_connected_where_moves_alone_would_leave_one_in_pieces():
    """Louvain, which is this without refinement, leaves one of this graph's communities disconnected."""
    graph, edges = _sparse(20)
    group = leiden(graph, 0.1, 0)
    for community in range(group.max() + 1):
        assert _is_connected(edges, np.flatnonzero(group == community).tolist())
