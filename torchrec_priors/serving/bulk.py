"""Recommendations for many users of the data set, on any number of ranks, into one Parquet file."""

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
    """int64 by user of the data set: the line of `ids` that names the user, -1 if none does.

    The ids of all users are in memory once.

    Raises:
        UserError: an id that the data set lacks, or that is there twice.
    """
    # A user has one row of the file, so an id must not be given twice.
    again = first_repeated(ids)
    if again is not None:
        raise UserError(f"--users: user {shown(ids[again])} is there twice: give each user once")

    # Users of the data set are looked up among the given ids, so the result is by user.
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
    """Writes top-k for users' whole histories: `user_id`, `items`, `scores` and `heads`.

    Rows are in the order of `lines`. Users are answered in the order of the data set, so it is read
    once, and in batches that do not depend on the ranks, so no bit of the file does. Every rank
    must call it.

    Args:
        lines: by user of the data set, the row of the file; -1 for users who are left out.
        allowed: bool by row, whether an item may be recommended; None for all.
        levers: how heads count.
        progress: wraps the batches to show progress; it gets their number.

    Returns:
        int64 [1 + J]: users on this rank with fewer than k items; and for each of
        `levers.at_least`, users with fewer items of that group than its share.

    Raises:
        UserError: levers that name no heads, or leave nothing to recommend.
    """
    batch = run.config.evaluation.batch
    share = run.ranks.share
    # Batches are of chosen users in file order, and so are their rows of the file.
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
            found, short_BJ = request.find(run.finder, users, request.queries(run.finder, users))
            table = recommendations(users.user_ids, found, run.catalogue.ids, names)
            # Batch i is of rank i mod world.
            first = (turn * share.world + share.rank) * batch
            file.add(table, rows[first : first + batch])

            # A list is short if its last place is empty.
            short[0] += (found.row_Bk[:, -1] < 0).sum().cpu()
            short[1:] += short_BJ.sum(0)
        file.finish()
    return short
