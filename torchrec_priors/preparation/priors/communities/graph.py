"""An undirected weighted graph as arrays, and the modularity of a grouping of its nodes."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import igraph


@dataclass(frozen=True)
class Graph:
    """N nodes and E undirected edges, each given once and between two different nodes.

    Attributes:
        nodes: N.
        first, second: int64 [E], the ends of each edge.
        weight: float64 [E], positive.
    """

    nodes: int
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray

    @cached_property
    def strength(self) -> np.ndarray:
        """float64 [N], the sum of the weights of each node's edges."""
        both = np.concatenate([self.weight, self.weight])
        return np.bincount(
            np.concatenate([self.first, self.second]), weights=both, minlength=self.nodes
        )

    @cached_property
    def connected(self) -> np.ndarray:
        """int64 [C], the nodes that have an edge, ascending.

        In a large catalogue most nodes may have none.
        """
        return np.flatnonzero(self.strength)

    @cached_property
    def igraph(self) -> "igraph.Graph":
        """The C nodes of `connected` as a graph of igraph."""
        # Imported here: preparation without communities does not need it.
        import igraph

        # Nodes are numbered by their position in `connected`, which is sorted.
        ends = np.stack([self.first, self.second], axis=1)
        graph = igraph.Graph(n=len(self.connected), edges=np.searchsorted(self.connected, ends))
        graph.es["weight"] = self.weight.tolist()
        return graph

    def modularity(self, group: np.ndarray) -> float:
        """Returns the modularity Q of a grouping; 0 without edges.

        Q is the sum over groups of (weight inside / m - (strength / 2m)^2), with m the weight of
        all edges.

        Args:
            group: int64 [N], the group of each node.

        Example:
            >>> two = Graph(4, np.array([0, 2]), np.array([1, 3]), np.ones(2))
            >>> two.modularity(np.array([0, 0, 1, 1]))
            0.5
        """
        if not len(self.weight):
            return 0.0
        # The sum of all strengths is 2m, as every edge has two ends.
        inside = self.weight[group[self.first] == group[self.second]].sum()
        share = np.bincount(group, weights=self.strength) / self.strength.sum()
        return float(inside / self.weight.sum() - np.square(share).sum())
