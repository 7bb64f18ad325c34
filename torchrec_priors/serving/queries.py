"""Queries of users one by one, so an answer does not depend on who is answered at the same time.

The last bits of a matrix product depend on its shape, those of an element-wise function on where
threads divide an array and where its vectors end. Two items whose scores are that close would
change places. On a CPU, where batches hardly help, each history is therefore encoded separately, on
one thread. On a GPU histories are encoded together, and answers in different batches agree up to
the last digits of their scores.
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
    """The paths' queries for this rank's users. Every rank must call it."""
    if finder.device.type != "cpu":
        return finder.ask(users)

    together = finder.histories(users)
    bounds = together.offsets_B1.tolist()
    with _one_thread():
        answers = [
            finder.model.queries(_single(together, slice(*pair)))
            for pair in itertools.pairwise(bounds)
        ]
    whole = PathQueries(
        torch.cat([answer.query_BKd for answer in answers]),
        torch.cat([answer.log_group_BK for answer in answers]),
    )
    # Without users, `histories` gives one made-up user.
    return whole.first(len(users))


def _single(histories: Jagged, part: slice) -> Jagged:
    """One of the histories."""
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
