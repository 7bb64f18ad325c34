"""Runs the Leiden algorithm (Traag, Waltman and van Eck, Scientific Reports 9, 2019).

There are two implementations, by the same author: `leiden` calls the library igraph, and
`thorough_leiden` calls `leidenalg`, which takes about twenty times as long. Both maximise
sum_ij (A_ij - resolution k_i k_j / 2m) over pairs of nodes i, j in the same community. A_ij is the
weight of the edge between them, k_i the strength of a node, and m the weight of all edges.
"""

import random
from collections.abc import Callable
from threading import Lock

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import Graph

# The generator of random numbers of igraph belongs to the process, so one thread at a time may use
# it.
_GENERATOR = Lock()
# The algorithm ends with an iteration that raises the modularity by less than this. Further
# iterations of large graphs take minutes and change hardly anything.
_LEAST_GAIN = 1e-4


def leiden(
    graph: Graph,
    resolution: float,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
    least_gain: float = _LEAST_GAIN,
) -> np.ndarray:
    """Finds communities with a high modularity at a resolution.

    Args:
        graph: the graph.
        resolution: a higher resolution gives more and smaller communities. 1 is plain modularity.
        seed: the seed of the order in which nodes are visited. The same seed gives the same
            communities.
        report: called with a message after every iteration.
        least_gain: the algorithm ends with an iteration that raises the modularity at this
            resolution by at most this.

    Returns:
        The community of each node in `graph.connected`, int64 [C]. Communities are numbered from 0
        in order of appearance.
    """
    # This is imported here because preparation without communities does not need it.
    import igraph

    membership = None
    before = -np.inf
    gain = np.inf
    iterations = 0
    with _GENERATOR:
        igraph.set_random_number_generator(random.Random(seed))
        try:
            # One iteration at a time, because nothing can be reported while the library works.
            while gain > least_gain:
                found = graph.igraph.community_leiden(
                    "modularity",
                    weights="weight",
                    resolution=resolution,
                    initial_membership=membership,
                    n_iterations=1,
                )
                gain = found.quality - before
                # The last iteration may have moved nodes without a gain.
                if gain > 0:
                    membership = found.membership
                before = found.quality
                iterations += 1
                report(f"communities at resolution {resolution:.4g}: iteration {iterations}")
        finally:
            # This is the generator that igraph uses if none is set.
            igraph.set_random_number_generator(random)

    return _numbered(np.array(membership, np.int64))


def thorough_leiden(graph: Graph, resolution: float, seed: int) -> np.ndarray:
    """Finds communities like `leiden`, but repeats the algorithm until the sum no longer rises."""
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
