"""Groups of the nodes of a graph."""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import OTHERS, Graph


@dataclass(frozen=True)
class Partition:
    """Groups of the N nodes of a graph.

    Attributes:
        group: the index of each node's community, or OTHERS, int64 [N]. Communities are numbered
            by size, and equally large ones by their smallest node.
        communities: the number of communities after joining, without OTHERS.
        found: the number of communities before joining. Nodes without an edge do not count.
        resolution: the resolution at which the communities were found.
        modularity: the modularity of the groups at resolution 1.
        best_modularity: the highest modularity, at resolution 1, of all communities that were found
            at any resolution, before or after joining.
    """

    group: np.ndarray
    communities: int
    found: int
    resolution: float
    modularity: float
    best_modularity: float

    @property
    def groups(self) -> int:
        """The number of groups, including OTHERS if any node is in it."""
        if (self.group == OTHERS).any():
            return self.communities + 1
        return self.communities


def partition_of(
    graph: Graph, community: np.ndarray, merged: np.ndarray, resolution: float
) -> Partition:
    """Returns a partition with communities numbered by size.

    Args:
        graph: the graph.
        community: the community of each node in `graph.connected` before joining, int64 [C].
        merged: the community of each node in `graph.connected` after joining, or OTHERS, int64 [C].
        resolution: the resolution at which the communities were found.
    """
    # Numbers of communities are in the order of their smallest nodes. A stable sort keeps this
    # order for communities of equal size.
    numbers, first, size = np.unique(
        merged[merged != OTHERS], return_index=True, return_counts=True
    )
    order = np.lexsort((first, -size))
    number_of = np.full(int(community.max()) + 1, OTHERS)
    number_of[numbers[order]] = np.arange(len(numbers))

    group = np.full(graph.nodes, OTHERS)
    is_in = merged != OTHERS
    group[graph.connected[is_in]] = number_of[merged[is_in]]

    # Nodes without an edge do not count in the modularity, so they may be in any community.
    before = np.zeros(graph.nodes, np.int64)
    before[graph.connected] = community

    # `modularity` needs numbers that are not negative, so OTHERS (-1) is shifted to 0.
    modularity = graph.modularity(group - OTHERS)
    return Partition(
        group=group,
        communities=len(numbers),
        found=int(community.max()) + 1,
        resolution=resolution,
        modularity=modularity,
        best_modularity=max(modularity, graph.modularity(before)),
    )


def data_of_groups(graph: Graph, group: np.ndarray) -> np.ndarray:
    """Returns the share of each group in the data of all nodes. OTHERS is first if it exists."""
    _, index = np.unique(group, return_inverse=True)
    data = np.bincount(index, weights=graph.data)
    shares: np.ndarray = data / data.sum()
    return shares


def evenness(graph: Graph, group: np.ndarray) -> float:
    """Returns the entropy of the groups' shares of the data, which is highest if all are equal."""
    share = data_of_groups(graph, group)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
