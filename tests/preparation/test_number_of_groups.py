"""With --no-join, small communities are merged, and a number of groups is reached, or the nearest one."""

import numpy as np
import pytest

from torchrec_priors.preparation.priors.communities.by_resolution import (
    at_resolution,
    by_resolution,
)
from torchrec_priors.preparation.priors.communities.graph import OTHERS, Graph


def _cliques(*sizes, apart=0):
    """Complete graphs of these sizes, joined to a chain by single edges; then `apart` nodes without any."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    edge = np.triu(np.equal.outer(block, block), 1)
    ends = np.cumsum(sizes)
    edge[ends[:-1] - 1, ends[:-1]] = True
    first, second = np.nonzero(edge)
    return Graph(len(block) + apart, first, second, np.ones(len(first)))


def test_communities_are_numbered_by_size_then_by_smallest_node():
    found = at_resolution(_cliques(6, 9, 6, 12), 1.0, min_size=1, seed=0)
    assert found.group.tolist() == [2] * 6 + [1] * 9 + [3] * 6 + [0] * 12
    assert (found.communities, found.found, found.groups) == (4, 4, 4)


def test_small_communities_and_nodes_without_an_edge_are_one_group():
    found = at_resolution(_cliques(6, 9, 6, 12, apart=2), 1.0, min_size=7, seed=0)
    assert found.group.tolist() == [OTHERS] * 6 + [1] * 9 + [OTHERS] * 6 + [0] * 12 + [OTHERS] * 2
    assert (found.communities, found.found, found.groups) == (2, 4, 3)


def test_the_modularity_is_that_of_the_merged_groups():
    graph = _cliques(6, 9, 6, 12)
    found = at_resolution(graph, 1.0, min_size=7, seed=0)
    assert found.modularity == pytest.approx(graph.modularity(found.group + 1))
    assert found.modularity < at_resolution(graph, 1.0, min_size=1, seed=0).modularity


@pytest.mark.parametrize("groups", [2, 3, 5, 8, 10])
def test_the_number_of_groups_is_reached_on_either_side_of_resolution_1(groups):
    graph = _cliques(*range(5, 15))
    assert by_resolution(graph, groups, min_size=1, seed=0).groups == groups


def test_the_remainder_counts_as_a_group():
    found = by_resolution(_cliques(*range(5, 15), apart=3), 6, min_size=1, seed=0)
    assert (found.groups, found.communities) == (6, 5)


def test_the_nearest_number_is_given_where_none_is_exact():
    """Two graphs that nothing joins are two communities at the least; and no more than fit `min_size` at the most."""
    first, second = np.array([0, 1, 0, 3, 4, 3]), np.array([1, 2, 2, 4, 5, 5])
    graph = Graph(6, first, second, np.ones(6))
    assert by_resolution(graph, 5, min_size=3, seed=0).groups == 2
    four = Graph(12, *(np.concatenate([x, x + 6]) for x in (first, second)), np.ones(12))
    assert by_resolution(four, 2, min_size=1, seed=0).groups == 4
