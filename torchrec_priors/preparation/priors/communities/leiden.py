"""Runs the Leiden algorithm (Traag, Waltman and van Eck, Scientific Reports 9, 2019).

The algorithm is implemented in the library `leidenalg`.
"""

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph


def leiden(graph: Graph, resolution: float, seed: int) -> np.ndarray:
    """Finds communities with a high modularity at a resolution.

    The algorithm maximises sum_ij (A_ij - resolution k_i k_j / 2m) over pairs of nodes i, j in the
    same community. A_ij is the weight of the edge between them, k_i the strength of a node, and m
    the weight of all edges. The algorithm is repeated from its last result until the sum no longer
    rises.

    Args:
        graph: the graph.
        resolution: a higher resolution gives more and smaller communities. 1 is plain modularity.
        seed: the seed of the order in which nodes are visited. The same seed gives the same
            communities.

    Returns:
        The community of each node in `graph.connected`, int64 [C]. Communities are numbered from 0
        in order of appearance.
    """
    # This is imported here because preparation without communities does not need it.
    import leidenalg

    # A negative number of iterations means: repeat until the sum no longer rises.
    partition = leidenalg.find_partition(
        graph.igraph,
        leidenalg.RBConfigurationVertexPartition,
        weights="weight",
        resolution_parameter=resolution,
        seed=seed,
        n_iterations=-1,
    )
    return _numbered(np.array(partition.membership, np.int64))


def _numbered(group: np.ndarray) -> np.ndarray:
    """Returns the same groups, numbered from 0 in order of appearance."""
    _, first, index = np.unique(group, return_index=True, return_inverse=True)
    number: np.ndarray = np.argsort(np.argsort(first))[index]
    return number
