"""Queries of users one by one, so that a user's answer does not depend on who is answered at the same time.

The last bits of a matrix product depend on its shape, those of an element-wise function on where threads divide an
array and where its vectors end. Two items whose scores are that close would change places. On a CPU, where batches
hardly help, each history is therefore encoded by itself, on one thread; on a GPU histories are encoded together, and
answers given beside others agree to the last digits of their scores alone.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torchrec_priors.data.histories import Histories
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.model import PathQueries
from torchrec_priors.retrieval.find import Finder


@torch.no_grad()
def ask_each(finder: Finder, users: Histories) -> PathQueries:
    """What the paths ask for, for this rank's users. Every rank must call it."""
    if finder.device.type != "cpu":
        return finder.ask(users)
    together = finder.histories(users)
    bounds = together.offsets_B1.tolist()
    with _one_thread():
        each = [
            finder.model.queries(_one(together, slice(*pair)))
            for pair in itertools.pairwise(bounds)
        ]
    whole = PathQueries(
        torch.cat([one.query_BKd for one in each]), torch.cat([one.log_group_BK for one in each])
    )
    return whole.first(len(users))


def _one(histories: Jagged, part: slice) -> Jagged:
    return Jagged(
        histories.vector_Nd[part],
        torch.tensor([0, part.stop - part.start]),
        None if histories.time_N is None else histories.time_N[part],
        None if histories.event_N is None else histories.event_N[part],
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
