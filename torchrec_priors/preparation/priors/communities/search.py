"""Finds the communities of a graph, and joins them to get a requested number of groups."""

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
# Groups may be made more even as long as they keep this share of the highest modularity.
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

    If a number of groups is given but no resolution, resolutions from 1 upwards are tried until
    there are enough groups and they are even enough. Groups are even enough if their entropy is at
    least that of half as many groups of equal size. A higher resolution divides large communities,
    so the groups become more even. But their modularity falls, and it must be at least nine tenths
    of the highest one. If no groups with this modularity are even enough, the most even ones are
    returned.

    Args:
        graph: the graph.
        groups: the number of groups, including OTHERS. If so many groups cannot be made, the
            partition with the most groups is returned. If None, only small communities are joined.
        resolution: the only resolution to try. None stands for 1 if `groups` is None.
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
        # Once the modularity is low, a higher resolution only lowers it further.
        if partition.groups >= groups:
            is_good = partition.modularity >= _ENOUGH * best
            is_last = not is_good or _is_even(graph, partition)
        is_last |= at >= _HIGHEST or partition.found == len(graph.connected)

        # Far below the number, resolutions are skipped.
        at *= 2.0 if 2 * partition.groups < groups else math.sqrt(2.0)

    most = max(partition.groups for partition in tried)
    possible = [partition for partition in tried if partition.groups == most]
    good = [partition for partition in possible if partition.modularity >= _ENOUGH * best]
    even = [partition for partition in good if _is_even(graph, partition)]
    # Of equally even groups, those of the smallest resolution are taken, which were tried first.
    chosen = max(even[:1] or good or possible, key=lambda one: evenness(graph, one.group))
    return replace(chosen, best_modularity=best)


def _is_even(graph: Graph, partition: Partition) -> bool:
    """Whether the groups are as even as half as many groups of equal size."""
    return evenness(graph, partition.group) >= math.log(partition.communities / 2)
