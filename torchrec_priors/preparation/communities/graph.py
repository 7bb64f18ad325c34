"""An undirected weighted graph as arrays, and the modularity of a grouping of its nodes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Graph:
    """N nodes, E edges without direction.

    Attributes:
        starts: int64 [N + 1], bounds of each node's neighbours.
        neighbours: int64 [2E], ascending within a node; no node is its own neighbour.
        weights: float64 [2E], positive.
        strength: float64 [N], weight of all of a node's edge ends, those of edges inside a merged node included.
    """

    starts: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray
    strength: np.ndarray

    @classmethod
    def from_edges(cls, nodes: int, first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> "Graph":
        """The graph of edges first-second, each given once."""
        ends, others = np.concatenate([first, second]), np.concatenate([second, first])
        both = np.concatenate([weight, weight]).astype(np.float64)
        strength = np.bincount(ends, weights=both, minlength=nodes)
        return _sorted(nodes, ends, others, both, strength)

    @property
    def nodes(self) -> int:
        return len(self.strength)

    @cached_property
    def total(self) -> float:
        """2m: the weight of all edge ends."""
        return float(self.strength.sum())

    @cached_property
    def ends(self) -> np.ndarray:
        """int64 [2E], the node whose neighbour stands at the same place of `neighbours`."""
        return np.repeat(np.arange(self.nodes), np.diff(self.starts))

    def only(self, nodes: np.ndarray) -> "Graph":
        """The graph of some nodes, ascending, among which are all that have an edge."""
        starts = np.append(self.starts[nodes], self.starts[-1])
        return Graph(starts, np.searchsorted(nodes, self.neighbours), self.weights, self.strength[nodes])

    def merged(self, group: np.ndarray) -> "Graph":
        """The graph whose nodes are the groups 0, 1, ..."""
        groups = int(group.max()) + 1
        first, second = group[self.ends], group[self.neighbours]
        across = first != second
        key, place = np.unique(first[across] * groups + second[across], return_inverse=True)
        weight = np.bincount(place, weights=self.weights[across], minlength=len(key))
        strength = np.bincount(group, weights=self.strength, minlength=groups)
        return _sorted(groups, key // groups, key % groups, weight, strength)

    def modularity(self, group: np.ndarray, resolution: float = 1.0) -> float:
        """Q = sum over groups of (weight inside / 2m - resolution (strength / 2m)^2); 0 for a graph without edges.

        Example:
            >>> two = Graph.from_edges(4, np.array([0, 2]), np.array([1, 3]), np.array([1, 1]))
            >>> two.modularity(np.array([0, 0, 1, 1]))
            0.5
        """
        if self.total == 0:
            return 0.0
        inside = self.weights[group[self.ends] == group[self.neighbours]].sum()
        strength = np.bincount(group, weights=self.strength)
        return float(inside / self.total - resolution * np.square(strength / self.total).sum())


def _sorted(nodes: int, ends: np.ndarray, others: np.ndarray, weights: np.ndarray, strength: np.ndarray) -> Graph:
    order = np.lexsort((others, ends))
    starts = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=nodes), out=starts[1:])
    return Graph(starts, others[order].astype(np.int64), weights[order], strength)
