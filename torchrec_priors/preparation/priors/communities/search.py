"""Communities of a graph, small ones merged, at a given resolution or at the one that gives so many groups."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.leiden import leiden

OTHERS = -1
_LOWEST = 2.0**-20
_HIGHEST = 2.0**16
_HALVINGS = 20


@dataclass(frozen=True)
class Partition:
    """Groups of the N nodes of a graph.

    Attributes:
        group: int64 [N]: community by number, or OTHERS; numbered by size, then by smallest node.
        communities: how many are left after merging, OTHERS aside.
        found: how many there were before, single nodes without edges aside.
        resolution: at which they were found.
        modularity: of the groups, at resolution 1.
    """

    group: np.ndarray
    communities: int
    found: int
    resolution: float
    modularity: float

    @property
    def groups(self) -> int:
        return self.communities + bool((self.group == OTHERS).any())


def at_resolution(graph: Graph, resolution: float, min_size: int, seed: int) -> Partition:
    """Leiden's communities; those of fewer than `min_size` nodes, and nodes without an edge, are OTHERS."""
    community = leiden(graph, resolution, seed)
    size = np.bincount(community)
    large = np.flatnonzero(size >= min_size)
    order = np.argsort(
        -size[large], kind="stable"
    )  # leiden numbers as they appear: by smallest node
    number = np.full(len(size), OTHERS)
    number[large[order]] = np.arange(len(large))
    group = np.full(graph.nodes, OTHERS)
    group[graph.connected] = number[community]
    return Partition(group, len(large), len(size), resolution, graph.modularity(group - OTHERS))


def with_groups(
    graph: Graph,
    groups: int,
    min_size: int,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
) -> Partition:
    """The partition of so many groups, OTHERS included, or of the nearest number that a resolution gives.

    The resolution is doubled or halved from 1 until the number is passed, then searched by bisection.
    """
    tried: dict[float, Partition] = {}

    def at(resolution: float) -> int:
        found = tried[resolution] = at_resolution(graph, resolution, min_size, seed)
        report(f"resolution {resolution:.4g}: {found.groups} groups")
        return found.groups

    def exact() -> bool:
        return any(found.groups == groups for found in tried.values())

    step = 2.0 if at(1.0) < groups else 0.5
    before = after = 1.0
    passed = False
    while not exact() and not passed and _LOWEST < after < _HIGHEST and tried[after].communities:
        before = after
        after = after * step
        passed = (at(after) < groups) != (tried[before].groups < groups)
    low, high = sorted((before, after))
    for _ in range(_HALVINGS if passed else 0):
        if exact():
            break
        middle = math.sqrt(low * high)
        low, high = (middle, high) if at(middle) < groups else (low, middle)
    return min(tried.values(), key=lambda found: (abs(found.groups - groups), found.resolution))
