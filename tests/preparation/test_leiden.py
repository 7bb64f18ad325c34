"""What communities are used for: they maximise modularity at a resolution, are connected, and follow from the seed."""

import itertools
import random

import igraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.leiden import leiden, thorough_leiden


def _graph(nodes, edges):
    """From {(first, second): weight}."""
    ends = np.array(list(edges), np.int64).reshape(-1, 2)
    return Graph(nodes, ends[:, 0], ends[:, 1], np.array(list(edges.values()), np.float64))


def _until_nothing_gains(graph, resolution, seed):
    return leiden(graph, resolution, seed, least_gain=0.0)


BOTH = pytest.mark.parametrize("find", [_until_nothing_gains, thorough_leiden])


def _everyone(find, graph, resolution, seed):
    """Community of each node; a node without an edge is one by itself."""
    group = graph.nodes + np.arange(graph.nodes)
    group[graph.connected] = find(graph, resolution, seed)
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


@BOTH
@settings(deadline=None, max_examples=100)
@given(edges=_edges, resolution=st.sampled_from([0.5, 1.0, 2.0]), seed=st.integers(0, 3))
def test_any_graph(find, edges, resolution, seed):
    """Communities are connected; at this resolution, with these weights, no move of a node would gain."""
    graph = _graph(9, edges)
    group = _everyone(find, graph, resolution, seed)
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


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_planted_blocks_are_found_whatever_the_seed(find, seed):
    graph, block = _blocks(0.4)
    assert find(graph, 1.0, seed).tolist() == block.tolist()


@BOTH
@pytest.mark.parametrize("inside", [0.12, 0.16, 0.2])
def test_modularity_is_at_least_that_of_what_was_planted(find, inside):
    """Where planted groups are faint, others fit better."""
    graph, block = _blocks(inside)
    assert len(graph.connected) == 200
    assert graph.modularity(find(graph, 1.0, 0)) >= graph.modularity(block)


@BOTH
def test_a_seed_decides_and_communities_are_numbered_as_they_appear(find):
    random = np.random.default_rng(1)
    first, second = np.nonzero(np.triu(random.random((150, 150)) < 0.05, 1))
    graph = Graph(150, first, second, np.ones(len(first)))
    found = [find(graph, 1.0, seed).tolist() for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert any(other != found[0] for other in found[2:]), "the seed has no effect"
    for group in found:
        assert list(dict.fromkeys(group)) == list(range(max(group) + 1))


def test_nodes_without_an_edge_take_no_part():
    graph = _graph(7, {(1, 4): 1, (2, 5): 3})
    assert graph.connected.tolist() == [1, 2, 4, 5]
    assert leiden(graph, 1.0, 0).tolist() == [0, 1, 0, 1]
    assert thorough_leiden(graph, 1.0, 0).tolist() == [0, 1, 0, 1]
    assert _graph(3, {}).modularity(np.arange(3)) == 0


@pytest.mark.parametrize("inside", [0.12, 0.2])
def test_the_quick_way_is_as_good_as_the_thorough_one(inside):
    graph, _ = _blocks(inside)
    quick, thorough = (graph.modularity(find(graph, 1.0, 0)) for find in (leiden, thorough_leiden))
    assert quick >= 0.97 * thorough


def test_random_numbers_of_the_process_neither_matter_nor_change():
    """igraph has one generator of random numbers for the whole process."""
    graph, _ = _blocks(0.12)
    random.seed(1)
    first = leiden(graph, 1.0, 0).tolist()
    state = random.getstate()
    random.seed(2)
    assert leiden(graph, 1.0, 0).tolist() == first
    random.seed(1)
    assert random.getstate() == state


@settings(deadline=None, max_examples=50)
@given(edges=_edges, group=st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_the_modularity_is_that_of_igraph(edges, group):
    graph = _graph(9, edges)
    whole = igraph.Graph(n=9, edges=list(edges))
    expected = whole.modularity(group, weights=list(edges.values()))
    assert graph.modularity(np.array(group)) == pytest.approx(expected, abs=1e-12)


def test_every_iteration_is_reported():
    said = []
    leiden(_blocks(0.12)[0], 1.0, 0, said.append)
    assert len(said) >= 2
    assert said[0] == "communities at resolution 1: iteration 1"
