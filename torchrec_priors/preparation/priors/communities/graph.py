"""Defines an undirected weighted graph, and computes the modularity of a grouping of its nodes."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import igraph


# The number that stands for nodes in no community.
OTHERS = -1


@dataclass(frozen=True)
class Graph:
    """A graph of N nodes and E undirected edges.

    Every edge is given once and connects two different nodes.

    Attributes:
        nodes: the number of nodes, N.
        first, second: int64 [E], the two ends of each edge.
        weight: float64 [E], the positive weight of each edge.
        interactions: float64 [N], the number of interactions of each node in the log from which the
            graph was made. If None, the strength of each node is used.
    """

    nodes: int
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    interactions: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """The amount of data of each node, float64 [N]."""
        if self.interactions is None:
            return self.strength
        return self.interactions

    @cached_property
    def strength(self) -> np.ndarray:
        """The sum of the weights of each node's edges, float64 [N]."""
        both = np.concatenate([self.weight, self.weight])
        return np.bincount(
            np.concatenate([self.first, self.second]), weights=both, minlength=self.nodes
        )

    @cached_property
    def connected(self) -> np.ndarray:
        """The nodes that have an edge, in ascending order, int64 [C].

        In a large catalogue, most nodes may have no edge.
        """
        return np.flatnonzero(self.strength)

    @cached_property
    def igraph(self) -> "igraph.Graph":
        """The C nodes of `connected` and all edges, as a graph of the library igraph."""
        # This is imported here because preparation without communities does not need it.
        import igraph

        # Nodes are numbered by their position in `connected`, which is sorted.
        ends = np.stack([self.first, self.second], axis=1)
        graph = igraph.Graph(n=len(self.connected), edges=np.searchsorted(self.connected, ends))
        graph.es["weight"] = self.weight.tolist()
        return graph

    def modularity(self, group: np.ndarray) -> float:
        """Returns the modularity Q of a grouping, which is 0 if there are no edges.

        Q is the sum over groups of (w / m - (s / 2m)^2). Here w is the weight of the edges inside
        the group, s is the sum of its nodes' strengths, and m is the weight of all edges.

        Args:
            group: the group of each node, int64 [N].

        Example:
            >>> two = Graph(4, np.array([0, 2]), np.array([1, 3]), np.ones(2))
            >>> two.modularity(np.array([0, 0, 1, 1]))
            0.5
        """
        if not len(self.weight):
            return 0.0
        # The sum of all strengths is 2m, because every edge has two ends.
        inside = self.weight[group[self.first] == group[self.second]].sum()
        share = np.bincount(group, weights=self.strength) / self.strength.sum()
        return float(inside / self.weight.sum() - np.square(share).sum())
