"""Communities are joined until each is large enough and there are as many groups as requested."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.preparation.priors.communities.graph import OTHERS, Graph
from torchrec_priors.preparation.priors.communities.join import join
from torchrec_priors.preparation.priors.communities.leiden import leiden
from torchrec_priors.preparation.priors.communities.search import joined


def _planted(sizes, inside, outside, seed=0, apart=0):
    """Planted blocks whose pairs are joined with these probabilities; then `apart` nodes without an edge."""
    random = np.random.default_rng(seed)
    block = np.repeat(np.arange(len(sizes)), sizes)
    near = np.equal.outer(block, block)
    drawn = random.random(near.shape) < np.where(near, inside, outside)
    first, second = np.nonzero(np.triu(drawn, 1))
    return Graph(len(block) + apart, first, second, np.ones(len(first))), block


def _contains(outer, inner):
    """Whether every group of `inner` lies within one of `outer`."""
    pairs = set(zip(inner.tolist(), outer.tolist(), strict=True))
    return len(pairs) == len(set(inner.tolist()))


PLANTED = 8


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("groups", range(2, 2 * PLANTED + 1))
@pytest.mark.parametrize("sizes", [[30] * PLANTED, [20, 24, 28, 32, 36, 40, 50, 60]])
def test_planted_blocks_are_found_at_any_number_of_groups(sizes, groups, seed):
    """Fewer groups are unions of blocks, and more groups are parts of blocks."""
    graph, block = _planted(sizes, 0.5, 0.02, seed)
    found = joined(graph, groups, None, min_size=5, seed=seed)
    assert found.groups == groups
    assert (np.bincount(found.group) >= 5).all()
    if groups <= PLANTED:
        assert _contains(found.group, block)
    else:
        assert _contains(block, found.group)


def test_blocks_that_belong_together_are_joined_first():
    """Pairs of blocks have more edges between them than other blocks have."""
    random = np.random.default_rng(0)
    block = np.repeat(np.arange(8), 25)
    chance = np.full((200, 200), 0.02)
    chance[np.equal.outer(block // 2, block // 2)] = 0.1
    chance[np.equal.outer(block, block)] = 0.6
    first, second = np.nonzero(np.triu(random.random((200, 200)) < chance, 1))
    graph = Graph(200, first, second, np.ones(len(first)))
    assert joined(graph, 8, 2.0, 5, 0).group.tolist() == block.tolist()
    assert joined(graph, 4, None, 5, 0).group.tolist() == (block // 2).tolist()


def test_the_remainder_counts_as_a_group_and_has_only_what_has_no_edge():
    graph, _ = _planted([30] * 6, 0.5, 0.02, apart=7)
    found = joined(graph, 4, None, min_size=10, seed=0)
    assert (found.groups, found.communities) == (4, 3)
    assert np.flatnonzero(found.group == OTHERS).tolist() == list(range(180, 187))


def test_parts_of_the_graph_that_are_too_small_are_in_the_remainder():
    """A path of four nodes beside a clique of twelve: no edge leads to where the path could join."""
    first, second = np.nonzero(np.triu(np.ones((12, 12)), 1))
    ends = np.array([[12, 13, 14], [13, 14, 15]])
    graph = Graph(16, *np.concatenate([[first, second], ends], axis=1), np.ones(len(first) + 3))
    found = joined(graph, None, None, min_size=5, seed=0)
    assert found.group.tolist() == [0] * 12 + [OTHERS] * 4
    assert joined(graph, None, None, min_size=4, seed=0).group.tolist() == [0] * 12 + [1] * 4


def test_small_communities_join_the_one_they_share_most_with():
    """Three cliques; the smallest has two edges to the first and one to the second."""
    block = np.repeat([0, 1, 2], [10, 10, 4])
    edge = np.triu(np.equal.outer(block, block), 1)
    edge[0, 20] = edge[1, 21] = edge[10, 22] = edge[9, 19] = True
    first, second = np.nonzero(edge)
    graph = Graph(24, first, second, np.ones(len(first)))
    found = joined(graph, None, 1.0, min_size=5, seed=0)
    assert found.group.tolist() == [0] * 10 + [1] * 10 + [0] * 4
    assert found.found == 3


@pytest.mark.parametrize("groups", [5, 9])
def test_parts_that_no_edge_connects_are_joined_if_the_number_requires_it(groups):
    graph, block = _planted(range(10, 22), 0.9, 0.0)
    found = joined(graph, groups, None, min_size=5, seed=0)
    assert found.groups == groups
    assert _contains(found.group, block)


def test_where_there_are_too_few_nodes_the_most_groups_are_given():
    graph, _ = _planted([12, 12], 0.9, 0.02)
    found = joined(graph, 20, None, min_size=6, seed=0)
    assert 2 <= found.groups <= 4
    assert (np.bincount(found.group) >= 6).all()


def test_a_resolution_is_the_only_one_that_is_tried():
    graph, _ = _planted([30] * PLANTED, 0.5, 0.02)
    said = []
    assert joined(graph, 12, 1.0, 5, 0, said.append).groups == PLANTED
    assert joined(graph, 12, 8.0, 5, 0, said.append).groups == 12
    assert [line.split(":")[0] for line in said if "groups" in line] == [
        "resolution 1",
        "resolution 8",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_more_even_at_little_cost(seed):
    """One block has many nodes and faint parts, and would keep most of the data."""
    random = np.random.default_rng(seed)
    part = np.repeat(np.arange(16), 20)
    block = np.where(part < 10, 0, part)
    chance = np.where(np.equal.outer(block, block), 0.25, 0.01)
    chance[np.equal.outer(part, part)] = 0.5
    first, second = np.nonzero(np.triu(random.random(chance.shape) < chance, 1))
    graph = Graph(len(part), first, second, np.ones(len(first)))
    plain = joined(graph, 5, 1.0, 5, seed)
    found = joined(graph, 5, None, 5, seed)
    assert found.modularity >= 0.9 * found.best_modularity
    assert found.best_modularity >= plain.modularity
    largest = [graph.data[p.group == 0].sum() for p in (plain, found)]
    assert max(np.bincount(found.group, graph.data)) <= max(np.bincount(plain.group, graph.data))
    assert largest


def test_of_equally_good_communities_the_first_is_joined():
    """Two gains of one community differ only by an error of rounding."""
    edges = {(0, 1): 2, (0, 8): 6, (3, 8): 1, (6, 7): 4, (6, 8): 6, (7, 8): 6}
    first, second = np.array(list(edges)).T
    data = np.random.default_rng(len(edges)).integers(1, 1000, 9).astype(float)
    graph = Graph(9, first, second, np.array(list(edges.values()), float), data)
    community = np.arange(len(graph.connected))
    assert join(graph, community, 1, 3).tolist() == _slow_join(graph, community, 1, 3).tolist()


_edges = st.dictionaries(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda pair: pair[0] < pair[1]),
    st.integers(1, 9),
    min_size=1,
    max_size=20,
)


def _slow_join(graph, community, min_size, most):
    """The definition: each union is tried, and the modularity of all groups is computed."""
    node_group = np.full(graph.nodes, OTHERS)
    node_group[graph.connected] = community

    def of(number):
        return np.flatnonzero(node_group == number)

    def numbers():
        return sorted(set(node_group[node_group != OTHERS].tolist()))

    def touching(number):
        ends = np.stack([node_group[graph.first], node_group[graph.second]])
        near = ends[:, (ends == number).any(axis=0)]
        return sorted(set(near.ravel().tolist()) - {number, OTHERS})

    def gain(number, other):
        union = np.where(node_group == number, other, node_group)
        # Nodes in OTHERS do not change how much a union gains.
        return round(graph.modularity(union - OTHERS) - graph.modularity(node_group - OTHERS), 9)

    def others(number):
        return [other for other in numbers() if other != number]

    def unite(number, which):
        best = max(which, key=lambda other: (gain(number, other), -other))
        low, high = sorted((number, best))
        node_group[node_group == high] = low

    def least(which):
        return min(which, key=lambda number: (round(graph.data[of(number)].sum(), 9), number))

    while small := [n for n in numbers() if len(of(n)) < min_size and touching(n)]:
        number = least(small)
        unite(number, touching(number))
    for number in numbers():
        if len(of(number)) < min_size:
            node_group[of(number)] = OTHERS

    left = most - int((node_group == OTHERS).any())
    while len(numbers()) > max(left, 1):
        gaining = [n for n in numbers() if max(gain(n, other) for other in others(n)) > 0]
        number = least(gaining or numbers())
        unite(number, others(number))
    return node_group[graph.connected]


@settings(deadline=None, max_examples=150)
@given(edges=_edges, min_size=st.integers(1, 4), most=st.integers(2, 5), alone=st.booleans())
def test_joining_is_what_it_is_defined_as(edges, min_size, most, alone):
    ends = np.array(list(edges), np.int64).reshape(-1, 2)
    weight = np.array(list(edges.values()), np.float64)
    data = np.random.default_rng(len(edges)).integers(1, 1000, 9).astype(float)
    graph = Graph(9, ends[:, 0], ends[:, 1], weight, data)
    community = np.arange(len(graph.connected)) if alone else leiden(graph, 2.0, 0)
    found = join(graph, community, min_size, most)
    assert found.tolist() == _slow_join(graph, community, min_size, most).tolist()
