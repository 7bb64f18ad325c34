"""Joins communities of a graph until all are large enough and their number is small enough.

The community with the least data is joined first, because a head needs data to learn. It joins the
community that gives the highest modularity. So small subjects join the nearest other subject, and
large subjects stay separate. Parts of one community of resolution 1 are joined before different
subjects are.
"""

import heapq

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import OTHERS, Graph

# Below this, a change of the modularity, or a difference of changes, is an error of rounding.
_NO_GAIN = 1e-12


def join(graph: Graph, community: np.ndarray, min_size: int, most: int | None = None) -> np.ndarray:
    """Returns larger communities, each of which is a union of given ones.

    1. Communities with fewer than `min_size` nodes join others with which they share an edge. A
       small community without an edge to another one becomes OTHERS.
    2. While there are more than `most` groups, the community with the least data joins another.
       Unions that raise the modularity come first.

    Of communities with equal data, the one with the smallest node is joined first.

    Args:
        graph: the graph.
        community: the community of each node in `graph.connected`, int64 [C]. Communities are
            numbered from 0 in order of their smallest node.
        min_size: the minimum number of nodes of a community.
        most: the maximum number of groups, at least 2. If there are nodes in OTHERS or without an
            edge, these are one of the groups. If None, only small communities are joined.

    Returns:
        The new community of each node in `graph.connected`, or OTHERS, int64 [C]. A union has the
        smallest of its communities' numbers.
    """
    joined = _Joined(graph, community)

    waiting = joined.by_data()
    while waiting:
        data, number = heapq.heappop(waiting)
        # If the data differs, this community was joined after it was added to the heap.
        if not joined.alive[number] or joined.data[number] != data:
            continue
        if joined.nodes[number] < min_size and joined.weights[number]:
            union = joined.join(number, near_only=True)
            heapq.heappush(waiting, (joined.data[union], union))
    joined.remove_smaller(min_size)

    if most is not None:
        in_communities = joined.nodes[joined.alive].sum()
        most_communities = most - int(in_communities < graph.nodes)

        for must_gain in (True, False):
            waiting = joined.by_data()
            while waiting and joined.alive.sum() > most_communities:
                data, number = heapq.heappop(waiting)
                if not joined.alive[number] or joined.data[number] != data:
                    continue
                # A community without a gain will not have one later, because the gain with a union
                # is the sum of the gains with its parts.
                if must_gain and joined.gain(number).max() <= _NO_GAIN:
                    continue
                union = joined.join(number, near_only=False)
                heapq.heappush(waiting, (joined.data[union], union))

    return joined.group[community]


class _Joined:
    """The K communities of a graph while they are joined.

    Attributes:
        alive: bool [K], whether a community still exists and has not become OTHERS.
        group: int64 [K], the community of which each one has become a part, or OTHERS.
        nodes: int64 [K], the number of nodes of each community.
        data: float64 [K], the interactions of each community.
        share: float64 [K], the share of each community in the strengths of all nodes.
        weights: for each community, the share of the weight of edges to each of its neighbours.
    """

    def __init__(self, graph: Graph, community: np.ndarray) -> None:
        number = int(community.max()) + 1
        self.alive = np.ones(number, bool)
        self.group = np.arange(number)
        self.nodes = np.bincount(community, minlength=number)
        self.data = np.bincount(community, weights=graph.data[graph.connected], minlength=number)
        self.share = np.bincount(
            community, weights=graph.strength[graph.connected], minlength=number
        )
        total = self.share.sum()
        self.share = self.share / total

        # Edges between the same two communities are added up.
        community_of = np.full(graph.nodes, OTHERS)
        community_of[graph.connected] = community
        first = community_of[graph.first]
        second = community_of[graph.second]
        between = first != second
        pair = np.minimum(first, second) * number + np.maximum(first, second)
        pairs, index = np.unique(pair[between], return_inverse=True)
        weight = np.bincount(index, weights=graph.weight[between], minlength=len(pairs)) / total

        self.weights: list[dict[int, float]] = [{} for _ in range(number)]
        for low, high, shared in zip(
            (pairs // number).tolist(), (pairs % number).tolist(), weight.tolist(), strict=True
        ):
            self.weights[low][high] = shared
            self.weights[high][low] = shared

    def by_data(self) -> list[tuple[float, int]]:
        """Returns a heap of (data, number) of all existing communities."""
        entries = [
            (float(self.data[number]), number) for number in np.flatnonzero(self.alive).tolist()
        ]
        heapq.heapify(entries)
        return entries

    def gain(self, number: int) -> np.ndarray:
        """Returns half of the change of the modularity if a community joins another, float64 [K].

        It is the weight between the two, minus the weight that is expected by chance. It is minus
        infinity for the community itself and for those that no longer exist.
        """
        gain: np.ndarray = -self.share[number] * self.share
        gain[list(self.weights[number])] += list(self.weights[number].values())
        gain[~self.alive] = -np.inf
        gain[number] = -np.inf
        return gain

    def join(self, number: int, *, near_only: bool) -> int:
        """Joins a community with the one that gives the highest modularity.

        Of equally good ones, the one with the smallest number is taken. Returns the number of the
        union, which is the smaller one of the two.

        Args:
            number: the community.
            near_only: whether only communities that an edge connects with it are considered.
        """
        gain = self.gain(number)
        if near_only:
            far = np.ones(len(gain), bool)
            far[list(self.weights[number])] = False
            gain[far] = -np.inf

        # Equal gains may differ by an error of rounding.
        other = int(np.argmax(gain >= gain.max() - _NO_GAIN))
        kept, gone = sorted((number, other))
        self._unite(kept, gone)
        return kept

    def _unite(self, kept: int, gone: int) -> None:
        """Adds the community `gone` to `kept`."""
        for array in (self.nodes, self.data, self.share):
            array[kept] += array[gone]
        self.alive[gone] = False
        self.group[self.group == gone] = kept

        for other, weight in self.weights[gone].items():
            del self.weights[other][gone]
            if other != kept:
                both = self.weights[kept].get(other, 0.0) + weight
                self.weights[kept][other] = both
                self.weights[other][kept] = both
        self.weights[gone] = {}

    def remove_smaller(self, min_size: int) -> None:
        """Turns communities with fewer nodes than `min_size` into OTHERS."""
        small = self.alive & (self.nodes < min_size)
        self.alive[small] = False
        self.group[np.isin(self.group, np.flatnonzero(small))] = OTHERS
