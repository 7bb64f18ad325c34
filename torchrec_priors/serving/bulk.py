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
from torchrec_priors.retrieval.item_filter import EVERYTHING, Filters, ItemFilter
from torchrec_priors.retrieval.predictions import recommendations
from torchrec_priors.retrieval.search_types import Found, Queries
from torchrec_priors.serving.answering import with_biases
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.ordered_file import OrderedFile
from torchrec_priors.serving.queries import ask_each
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
    allowed: ItemFilter | None = None,
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
        allowed: the items that may be recommended; None to allow all items.
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

    finding = _Finding(run, k, allowed or EVERYTHING, levers)
    names = pa.array(run.heads)
    short = torch.zeros(1 + len(levers.at_least), dtype=torch.int64)
    rounds = -(-len(rows) // (batch * share.world))
    with OrderedFile(out, len(rows), k, run.ranks) as file:
        for turn, users in enumerate(progress(batches, rounds)):
            found, short_BJ = finding.find(run.finder.contexts(users))
            table = recommendations(users.user_ids, found, run.catalogue.ids, names)
            # Batch i belongs to rank i mod the number of ranks.
            first = (turn * share.world + share.rank) * batch
            file.add(table, rows[first : first + batch])

            # A list has fewer than k items if its last entry is empty.
            short[0] += (found.row_Bk[:, -1] < 0).sum().cpu()
            short[1:] += short_BJ.sum(0)
        file.finish()
    return short


class _Finding:
    """Finds the lists of batches of users, as `LoadedRun.answer` does for requests."""

    def __init__(self, run: LoadedRun, k: int, item_filter: ItemFilter, levers: Levers) -> None:
        """
        Args:
            run: the run.
            k: the number of items for each user.
            item_filter: the items that may be recommended.
            levers: how heads are used.

        Raises:
            UserError: the levers cannot be applied.
        """
        self._run = run
        self._k = k
        self._filter = item_filter
        self._bias_K = run.path.levers.prepare(levers).bias_K
        self._shares = run.path.shares(levers, k, item_filter)

    def find(self, users: Histories) -> tuple[Found, Tensor]:
        """Finds the lists of this rank's users. Every rank must call it.

        Returns:
            The lists; and bool [B, J], whether a list has fewer items of a group than demanded.
        """
        finder = self._run.finder
        queries = finder.queries(users, ask_each(finder, users))

        def by_model(one: Histories, asked: Queries, filters: Filters) -> Found:
            return finder.find(one, asked, self._k, filters=filters)

        found, short_BJ = self._lists(users, queries, by_model)

        # Users of whose history the model knows nothing get what is popular. As a search is a
        # collective, all ranks must know whether there is one.
        unknown = self._unknown(users)
        if unknown is None or not int(self._run.ranks.total(torch.tensor(len(unknown)))):
            return found, short_BJ
        popular = self._run.path.popular()
        them = users.chosen(unknown)

        def by_popularity(one: Histories, asked: Queries, filters: Filters) -> Found:
            return popular.find(one, asked, self._k, filters)

        of_them, short_of_them = self._lists(them, popular.queries(them, None), by_popularity)
        found.put(unknown, of_them)
        short_BJ[unknown] = short_of_them
        return found, short_BJ

    def _lists(
        self,
        users: Histories,
        queries: Queries,
        search: Callable[[Histories, Queries, Filters], Found],
    ) -> tuple[Found, Tensor]:
        """Finds lists with the levers."""
        queries = with_biases(queries, [self._bias_K] * len(users))
        if self._shares is not None:
            return self._shares.find(
                lambda bits: search(users, queries, [self._filter.within(bits)])
            )
        found = search(users, queries, [self._filter])
        return found, torch.zeros(len(users), 0, dtype=torch.bool)

    def _unknown(self, users: Histories) -> list[int] | None:
        """Returns the users whose history has no item with a row; None if all items have one."""
        has_row_I = self._run.model.item_rows.has_row_I
        if has_row_I is None:
            return None
        user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
        known_B = np.bincount(user_X[has_row_I[users.seen]], minlength=len(users)) > 0
        unknown: list[int] = np.flatnonzero(~known_B).tolist()
        return unknown
