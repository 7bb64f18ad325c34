"""Searches for a resolution that gives a requested number of groups, without joining communities.

It is used with `--no-join`. Communities that are too small form one group. For a large log there
may be no resolution that gives the number, or only one at which nearly all nodes are in this group.
"""

import math
from collections.abc import Callable

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import OTHERS, Graph
from torchrec_priors.preparation.priors.communities.leiden import thorough_leiden
from torchrec_priors.preparation.priors.communities.partition import Partition, partition_of

Report = Callable[[str], None]

# The bounds of the resolutions that are tried.
_LOWEST = 2.0**-20
_HIGHEST = 2.0**16
_HALVINGS = 20


def at_resolution(graph: Graph, resolution: float, min_size: int, seed: int) -> Partition:
    """Finds communities at a resolution.

    Communities with fewer than `min_size` nodes and nodes without an edge become OTHERS.
    """
    community = thorough_leiden(graph, resolution, seed)
    is_large = np.bincount(community) >= min_size
    return partition_of(
        graph, community, np.where(is_large[community], community, OTHERS), resolution
    )


def by_resolution(
    graph: Graph,
    groups: int,
    min_size: int,
    seed: int,
    report: Report = lambda _: None,
) -> Partition:
    """Finds a partition with the requested number of groups, including OTHERS, and joins nothing.

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
