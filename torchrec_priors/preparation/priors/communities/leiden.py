"""The Leiden algorithm for modularity (Traag, Waltman and van Eck, Scientific Reports 9, 2019).

The implementation is that of `leidenalg`.
"""

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph


def leiden(graph: Graph, resolution: float, seed: int) -> np.ndarray:
    """Returns communities that maximise modularity at a resolution.

    That is sum_ij (A_ij - resolution k_i k_j / 2m) over pairs within a community. Leiden is
    repeated from its own result until the value no longer rises.

    Args:
        graph: The graph.
        resolution: The larger, the more and the smaller the communities. 1 is plain modularity.
        seed: Seed of the order in which nodes are visited. The same seed gives the same
            communities.

    Returns:
        int64 [C]: Community of each of `graph.connected`, numbered from 0 in order of appearance.
    """
    # Imported here: preparation without communities does not need it.
    import leidenalg

    # A negative number of iterations repeats them until nothing improves.
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
