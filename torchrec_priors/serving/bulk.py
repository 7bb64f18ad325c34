"""Writes recommendations for many users of the data set into one Parquet file.

Any number of ranks may take part.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories, history_batches
from torchrec_priors.errors import UserError, shown
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_files import as_numbers, first_repeated
from torchrec_priors.retrieval.predictions import recommendations
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.ordered_file import OrderedFile
from torchrec_priors.serving.run import LoadedRun

Progress = Callable[[Iterable[Histories], int], Iterable[Histories]]


def lines_of_users(data: PreparedData, ids: pa.Array) -> np.ndarray:
    """Finds the given users in the data set.

    One copy of the ids of all users in the data set is held in memory.

    Args:
        data: the prepared data set.
        ids: the original ids of the wanted users. The position of an id is its line.

    Returns:
        int64, for each user of the data set, the line of `ids` with the user's id; -1 if there is
        no such line.

    Raises:
        UserError: the data set has no user with one of the ids, or an id is given twice.
    """
    # The output has one row for each user, so an id must not be given twice.
    repeated = first_repeated(ids)
    if repeated is not None:
        raise UserError(
            f"--users: user {shown(ids[repeated])} is listed twice: give each user once"
        )

    lines = as_numbers(pc.index_in(data.user_texts(), value_set=ids))
    unknown = np.ones(len(ids), bool)
    unknown[lines[lines >= 0]] = False
    if unknown.any():
        first = ids[int(np.argmax(unknown))]
        others = f" ({unknown.sum():,} of {len(ids):,} users are unknown)"
        raise UserError(
            f"--users: data set '{data.manifest.name}' has no user {shown(first)}{others}"
        )
    return lines


def recommend_in_bulk(
    run: LoadedRun,
    lines: np.ndarray,
    out: Path,
    *,
    k: int,
    allowed: np.ndarray | None = None,
    levers: Levers = Levers(),
    progress: Progress = lambda batches, _count: batches,
) -> Tensor:
    """Recommends items for the whole histories of users, and writes them to a Parquet file.

    Its columns are `user_id`, `items`, `scores` and `heads`. Users are answered in the order of the
    data set, so the data set is read only once. Batches do not depend on the number of ranks, so
    every bit of the file is the same on any number of ranks. Every rank must call it.

    Args:
        run: the loaded run.
        lines: for each user of the data set, the user's row in the file; -1 to leave the user out.
        out: the file.
        k: the number of items for each user.
        allowed: bool for each row id, whether the item may be recommended; None to allow all items.
        levers: how heads are used.
        progress: wraps the batches to show progress; its second argument is their number.

    Returns:
        int64 [1 + J]: the number of users on this rank with fewer than k items; and for each group
        in `levers.at_least`, the number of users with fewer items of the group than demanded.

    Raises:
        UserError: a lever names no head, or the levers leave nothing to recommend.
    """
    batch = run.config.evaluation.batch
    share = run.ranks.share
    # Batches contain the chosen users in the order of the data set, and so does `rows`.
    chosen = lines >= 0
    rows = lines[chosen]
    batches = history_batches(
        run.data,
        None,
        context=run.finder.context,
        batch=batch,
        share=share,
        columns=run.columns,
        chosen=chosen,
    )

    request = run.request(k, allowed, levers)
    names = pa.array(run.heads)
    short = torch.zeros(1 + len(levers.at_least), dtype=torch.int64)
    rounds = -(-len(rows) // (batch * share.world))
    with OrderedFile(out, len(rows), k, run.ranks) as file:
        for turn, users in enumerate(progress(batches, rounds)):
            read = run.finder.contexts(users)
            found, short_BJ = request.find(run.finder, read, request.queries(run.finder, read))
            table = recommendations(users.user_ids, found, run.catalogue.ids, names)
            # Batch i belongs to rank i mod the number of ranks.
            first = (turn * share.world + share.rank) * batch
            file.add(table, rows[first : first + batch])

            # A list has fewer than k items if its last entry is empty.
            short[0] += (found.row_Bk[:, -1] < 0).sum().cpu()
            short[1:] += short_BJ.sum(0)
        file.finish()
    return short
