"""Finds communities of a graph, and a requested number of groups by joining them."""

import math
from collections.abc import Callable
from dataclasses import replace

from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.join import join
from torchrec_priors.preparation.priors.communities.leiden import leiden
from torchrec_priors.preparation.priors.communities.partition import (
    Partition,
    evenness,
    partition_of,
)

Report = Callable[[str], None]

# No higher resolution is tried.
_HIGHEST = 2.0**16
# Groups may be made more even at the cost of the rest of the highest modularity.
_ENOUGH = 0.9


def joined(
    graph: Graph,
    groups: int | None,
    resolution: float | None,
    min_size: int,
    seed: int,
    report: Report = lambda _: None,
) -> Partition:
    """Finds communities, and joins them until they are large enough and few enough.

    With a number of groups and no resolution, resolutions from 1 upwards are tried. The partition
    with the most even groups is returned, among those that have the requested number and at least
    nine tenths of the highest modularity. A higher resolution divides large communities, so it can
    give more even groups, but its modularity is lower.

    Args:
        graph: the graph.
        groups: the number of groups, including OTHERS. None joins only what is too small. If fewer
            groups can be made, the partition with the most groups is returned.
        resolution: the only resolution to be tried. None stands for 1 if there are no `groups`.
        min_size: the minimum number of nodes of a community.
        seed: the seed of the order in which nodes are visited.
        report: called with messages about the progress.
    """
    at = 1.0 if resolution is None else resolution
    tried: list[Partition] = []
    best = -math.inf
    is_last = False

    while not is_last:
        community = leiden(graph, at, seed, report)
        partition = partition_of(graph, community, join(graph, community, min_size, groups), at)
        tried.append(partition)
        best = max(best, partition.best_modularity)
        report(
            f"resolution {at:.4g}: {partition.found:,} communities, {partition.groups:,} groups of"
            f" modularity {partition.modularity:.4f}"
        )

        if groups is None or resolution is not None:
            break
        # From here on, a higher resolution only lowers the modularity of the groups further.
        enough = partition.groups >= groups
        is_last = enough and partition.modularity < _ENOUGH * best
        is_last |= at >= _HIGHEST or partition.found == len(graph.connected)

        # Far below the number, resolutions are skipped.
        at *= 2.0 if 2 * partition.groups < groups else math.sqrt(2.0)

    most = max(partition.groups for partition in tried)
    possible = [partition for partition in tried if partition.groups == most]
    good = [partition for partition in possible if partition.modularity >= _ENOUGH * best]
    # Of equally even groups, those of the smallest resolution are taken, which were tried first.
    chosen = max(good or possible, key=lambda partition: evenness(graph, partition.group))
    return replace(chosen, best_modularity=best)
