"""Computes queries so that a user's answer does not depend on the other users in the request.

The last bits of a matrix product depend on its shape. Those of an element-wise function depend on
how an array is divided among threads and vector instructions. If two items have almost equal
scores, such a difference can swap them. So on a CPU histories are encoded on one thread, and
together only where this gives the same bits (`retrieval/together.py`); the heads are asked for one
user after another. On a GPU histories are encoded together, so the last digits of scores may depend
on the batch.
"""

import itertools

import numpy as np
import pyarrow as pa
import torch

from torchrec_priors.data.histories import Histories
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.heads.path_queries import PathQueries
from torchrec_priors.heads.repeat_shares import RepeatShares
from torchrec_priors.ops.single_thread import single_thread
from torchrec_priors.prepared.users import History
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
    with single_thread():
        state_Nd = finder.together.states(together)
        parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
        answers = [
            finder.model.queries_at(_single(together, part), state_Nd[part]) for part in parts
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


def ask_known(finder: Finder, histories: list[History]) -> tuple[Histories, PathQueries]:
    """Computes the queries of all paths for some histories. Every rank must call it.

    Args:
        finder: the finder.
        histories: the histories, which may have different columns.

    Returns:
        The users, and their queries.
    """
    # The encoder takes histories that all have the same columns.
    same: dict[tuple[str, ...], list[int]] = {}
    for number, history in enumerate(histories):
        same.setdefault(tuple(sorted(history.columns)), []).append(number)
    if len(same) == 1:
        users = batch_of(finder, histories, columns=True)
        return users, ask_each(finder, users)

    answers: dict[int, PathQueries] = {}
    for numbers in same.values():
        part = batch_of(finder, [histories[number] for number in numbers], columns=True)
        singles = _singles(ask_each(finder, part))
        answers.update(zip(numbers, singles, strict=True))
    joined = PathQueries.joined([answers[number] for number in range(len(histories))])
    return batch_of(finder, histories), joined


def batch_of(finder: Finder, histories: list[History], *, columns: bool = False) -> Histories:
    """Makes a batch of users from histories; the ids of the users are their positions.

    Args:
        finder: the finder, which decides which items the encoder reads.
        histories: the histories.
        columns: whether to keep the columns, which must be the same for all histories.
    """
    # The targets are unknown: they are the interactions that the request asks for.
    no_targets = [np.empty(0, np.int64)] * len(histories)
    names = histories[0].columns if columns else ()
    users = Histories.of(
        pa.array(range(len(histories))),
        [history.items for history in histories],
        no_targets,
        finder.context,
        {name: [history.columns[name] for history in histories] for name in names},
        [history.user for history in histories],
    )
    return finder.contexts(users)


def _singles(asked: PathQueries) -> list[PathQueries]:
    """Divides the queries of a batch into those of each user."""
    shares: list[RepeatShares | None] = [None] * len(asked)
    if asked.repeats is not None:
        repeats = asked.repeats
        parts = zip(
            repeats.logit_B.split(1),
            repeats.log_share_N.split(repeats.length_B.tolist()),
            repeats.length_B.split(1),
            strict=True,
        )
        shares = [RepeatShares(*part) for part in parts]
    vectors = zip(asked.query_BKd.split(1), asked.log_group_BK.split(1), shares, strict=True)
    return [PathQueries(*single) for single in vectors]
