"""The Leiden algorithm for modularity (Traag, Waltman and van Eck, Scientific Reports 9, 2019), of `leidenalg`."""

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph


def leiden(graph: Graph, resolution: float, seed: int) -> np.ndarray:
    """Communities that maximise sum_ij (A_ij - resolution k_i k_j / 2m) over pairs of one community.

    Leiden is repeated from its own result until that no longer rises.

    Args:
        resolution: the larger, the more and the smaller the communities; 1 is plain modularity.
        seed: of the order in which nodes are visited; the same seed gives the same communities.

    Returns:
        int64 [C]: community of each of `graph.connected`, numbered from 0 as they appear.
    """
    import leidenalg  # here, as preparing without communities goes without it

    found = leidenalg.find_partition(
        graph.igraph,
        leidenalg.RBConfigurationVertexPartition,
        weights="weight",
        resolution_parameter=resolution,
        seed=seed,
        n_iterations=-1,
    )
    return _numbered(np.array(found.membership, np.int64))


def _numbered(group: np.ndarray) -> np.ndarray:
    """The same groups, numbered from 0 as they appear."""
    _, first, place = np.unique(group, return_index=True, return_inverse=True)
    number: np.ndarray = np.argsort(np.argsort(first))[place]
    return number
