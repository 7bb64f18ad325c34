"""Finds the communities of a graph and merges small ones.

The resolution is given, or the code searches for one that gives a requested number of groups.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.leiden import leiden

OTHERS = -1
# The bounds of the resolutions that are tried.
_LOWEST = 2.0**-20
_HIGHEST = 2.0**16
_HALVINGS = 20


@dataclass(frozen=True)
class Partition:
    """Groups of the N nodes of a graph.

    Attributes:
        group: the number of each node's community, or OTHERS, int64 [N]. Communities are numbered
            by size, and equally large ones by their smallest node.
        communities: the number of communities after merging, without OTHERS.
        found: the number of communities before merging. Nodes without an edge do not count.
        resolution: the resolution at which the communities were found.
        modularity: the modularity of the groups at resolution 1.
    """

    group: np.ndarray
    communities: int
    found: int
    resolution: float
    modularity: float

    @property
    def groups(self) -> int:
        """The number of groups, including OTHERS if any node is in it."""
        if (self.group == OTHERS).any():
            return self.communities + 1
        return self.communities


def at_resolution(graph: Graph, resolution: float, min_size: int, seed: int) -> Partition:
    """Finds communities at a resolution.

    Communities with fewer than `min_size` nodes and nodes without an edge become OTHERS.
    """
    community = leiden(graph, resolution, seed)
    size = np.bincount(community)
    large = np.flatnonzero(size >= min_size)

    # Communities are numbered by their smallest node. A stable sort keeps this order for
    # communities of equal size.
    order = np.argsort(-size[large], kind="stable")
    number = np.full(len(size), OTHERS)
    number[large[order]] = np.arange(len(large))

    group = np.full(graph.nodes, OTHERS)
    group[graph.connected] = number[community]

    # `modularity` needs numbers that are not negative, so OTHERS (-1) is shifted to 0.
    return Partition(group, len(large), len(size), resolution, graph.modularity(group - OTHERS))


def with_groups(
    graph: Graph,
    groups: int,
    min_size: int,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
) -> Partition:
    """Finds a partition with the requested number of groups, including OTHERS.

    Starting at 1, the resolution is doubled or halved until the number of groups passes `groups`.
    Then the resolution is found by bisection. If no resolution gives this number, the partition
    with the nearest number is returned.
    """
    tried: dict[float, Partition] = {}

    def groups_at(resolution: float) -> int:
        partition = at_resolution(graph, resolution, min_size, seed)
        tried[resolution] = partition
        report(f"resolution {resolution:.4g}: {partition.groups} groups")
        return partition.groups

    def is_exact() -> bool:
        return any(partition.groups == groups for partition in tried.values())

    step = 2.0 if groups_at(1.0) < groups else 0.5
    before = 1.0
    after = 1.0
    passed = False
    # Once there are no communities left, changing the resolution further in the same direction does
    # not help.
    while not is_exact() and not passed and _LOWEST < after < _HIGHEST and tried[after].communities:
        before = after
        after = after * step
        passed = (groups_at(after) < groups) != (tried[before].groups < groups)

    if passed:
        low, high = sorted((before, after))
        for _ in range(_HALVINGS):
            if is_exact():
                break
            # Resolutions have a logarithmic scale, so the middle is the geometric mean.
            middle = math.sqrt(low * high)
            if groups_at(middle) < groups:
                low = middle
            else:
                high = middle

    # Of two partitions that are equally near, the one with the smaller resolution is taken.
    return min(
        tried.values(),
        key=lambda partition: (abs(partition.groups - groups), partition.resolution),
    )
