"""Communities of a graph, with small ones merged.

They are found at a given resolution, or at the resolution that gives a wanted number of groups.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.leiden import leiden

OTHERS = -1
# Bounds of the resolutions that are tried.
_LOWEST = 2.0**-20
_HIGHEST = 2.0**16
_HALVINGS = 20


@dataclass(frozen=True)
class Partition:
    """Groups of the N nodes of a graph.

    Attributes:
        group: int64 [N]: Number of the community, by size, then by smallest node; or OTHERS.
        communities: Number of communities after merging, without OTHERS.
        found: Number of communities before merging, without single nodes that have no edge.
        resolution: The resolution at which they were found.
        modularity: Modularity of the groups, at resolution 1.
    """

    group: np.ndarray
    communities: int
    found: int
    resolution: float
    modularity: float

    @property
    def groups(self) -> int:
        """Number of groups, including OTHERS if any node is in it."""
        if (self.group == OTHERS).any():
            return self.communities + 1
        return self.communities


def at_resolution(graph: Graph, resolution: float, min_size: int, seed: int) -> Partition:
    """Returns Leiden's communities at a resolution.

    Nodes of communities of fewer than `min_size` nodes, and nodes without an edge, are OTHERS.
    """
    community = leiden(graph, resolution, seed)
    size = np.bincount(community)
    large = np.flatnonzero(size >= min_size)

    # Leiden's communities are numbered by smallest node: a stable sort by size keeps that order.
    order = np.argsort(-size[large], kind="stable")
    number = np.full(len(size), OTHERS)
    number[large[order]] = np.arange(len(large))

    group = np.full(graph.nodes, OTHERS)
    group[graph.connected] = number[community]

    # Modularity counts by group number, which must not be negative: OTHERS become 0.
    return Partition(group, len(large), len(size), resolution, graph.modularity(group - OTHERS))


def with_groups(
    graph: Graph,
    groups: int,
    min_size: int,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
) -> Partition:
    """Returns the partition of a number of groups, including OTHERS, or of the nearest number.

    The resolution is doubled or halved from 1 until the number is passed, then searched by
    bisection.
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
    # Without any community, a change of the resolution in the same direction helps no more.
    while not is_exact() and not passed and _LOWEST < after < _HIGHEST and tried[after].communities:
        before = after
        after = after * step
        passed = (groups_at(after) < groups) != (tried[before].groups < groups)

    if passed:
        low, high = sorted((before, after))
        for _ in range(_HALVINGS):
            if is_exact():
                break
            middle = math.sqrt(low * high)  # the scale of resolutions is logarithmic
            if groups_at(middle) < groups:
                low = middle
            else:
                high = middle

    # Of equally near numbers, that of the smaller resolution.
    return min(
        tried.values(),
        key=lambda partition: (abs(partition.groups - groups), partition.resolution),
    )
