"""Computes queries so that a user's answer does not depend on the other users in the request.

The last bits of a matrix product depend on its shape. Those of an element-wise function depend on
how an array is divided among threads and vector instructions. If two items have almost equal
scores, such a difference can swap them. So on a CPU, where batches hardly save time, each history
is encoded separately, on one thread. On a GPU histories are encoded together, so the last digits of
scores may depend on the batch.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torchrec_priors.data.histories import Histories
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.heads.path_queries import PathQueries
from torchrec_priors.retrieval.find import Finder


@torch.no_grad()
def ask_each(finder: Finder, users: Histories) -> PathQueries:
    """Computes the queries of all paths for this rank's users. Every rank must call it.

    Args:
        finder: the finder of the model.
        users: the users (see `Finder.contexts`).
    """
    if finder.device.type != "cpu":
        return finder.ask(users)

    together = finder.histories(users)
    bounds = together.offsets_B1.tolist()
    with _one_thread():
        answers = [
            finder.model.queries(_single(together, slice(*pair)))
            for pair in itertools.pairwise(bounds)
        ]
    whole = PathQueries.joined(answers)
    # If there are no users, `histories` still returns one history; its query is removed.
    return whole.first(len(users))


def _single(histories: Jagged, part: slice) -> Jagged:
    """Returns one of the histories; `part` is the slice of its items."""
    return Jagged(
        histories.vector_Nd[part],
        torch.tensor([0, part.stop - part.start]),
        None if histories.time_N is None else histories.time_N[part],
        None if histories.event_N is None else histories.event_N[part],
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Makes PyTorch use one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
