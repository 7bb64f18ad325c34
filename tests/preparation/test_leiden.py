"""What communities are used for: they maximise modularity at a resolution, are connected, and follow from the seed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.leiden import leiden


def _graph(nodes, edges):
    """From {(first, second): weight}."""
    ends = np.array(list(edges), np.int64).reshape(-1, 2)
    return Graph(nodes, ends[:, 0], ends[:, 1], np.array(list(edges.values()), np.float64))


def _everyone(graph, resolution, seed):
    """Community of each node; a node without an edge is one by itself."""
    group = graph.nodes + np.arange(graph.nodes)
    group[graph.connected] = leiden(graph, resolution, seed)
    return np.unique(group, return_inverse=True)[1]


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
    """Communities are connected; at this resolution, with these weights, no move of a node would gain."""
    graph = _graph(9, edges)
    group = _everyone(graph, resolution, seed)
    assert graph.modularity(group) == pytest.approx(_modularity(9, edges, group, 1.0), abs=1e-12)
    reached = _modularity(9, edges, group, resolution)
    for community in range(group.max() + 1):
        assert _is_connected(edges, np.flatnonzero(group == community).tolist())
    for node, to in itertools.product(range(9), range(group.max() + 2)):
        moved = group.copy()
        moved[node] = to
        assert _modularity(9, edges, moved, resolution) <= reached + 1e-9


def _blocks(inside, seed=0):
    """Eight planted groups of 25 nodes, whose pairs are joined with probability `inside`; all others with 0.02."""
    random, block = np.random.default_rng(seed), np.repeat(np.arange(8), 25)
    near = np.equal.outer(block, block)
    first, second = np.nonzero(np.triu(random.random((200, 200)) < np.where(near, inside, 0.02), 1))
    return Graph(200, first, second, np.ones(len(first))), block


@pytest.mark.parametrize("seed", range(5))
def test_planted_blocks_are_found_whatever_the_seed(seed):
    graph, block = _blocks(0.4)
    assert leiden(graph, 1.0, seed).tolist() == block.tolist()


@pytest.mark.parametrize("inside", [0.12, 0.16, 0.2])
def test_modularity_is_at_least_that_of_what_was_planted(inside):
    """Where planted groups are faint, others fit better."""
    graph, block = _blocks(inside)
    assert len(graph.connected) == 200
    assert graph.modularity(leiden(graph, 1.0, 0)) >= graph.modularity(block)


def test_a_seed_decides_and_communities_are_numbered_as_they_appear():
    random = np.random.default_rng(1)
    first, second = np.nonzero(np.triu(random.random((150, 150)) < 0.05, 1))
    graph = Graph(150, first, second, np.ones(len(first)))
    found = [leiden(graph, 1.0, seed).tolist() for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert any(other != found[0] for other in found[2:]), "the seed has no effect"
    for group in found:
        assert list(dict.fromkeys(group)) == list(range(max(group) + 1))


def test_nodes_without_an_edge_take_no_part():
    graph = _graph(7, {(1, 4): 1, (2, 5): 3})
    assert graph.connected.tolist() == [1, 2, 4, 5]
    assert leiden(graph, 1.0, 0).tolist() == [0, 1, 0, 1]
    assert _graph(3, {}).modularity(np.arange(3)) == 0
