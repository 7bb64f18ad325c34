"""Popularity: items are ranked by their interactions, in the whole training part or its end.

With a prior of users, only the interactions of users in the same groups are counted. A user of
several groups gets the sum over them. A user of no group gets the popularity among all users. Items
that are equally popular in a group are ranked by their popularity in the whole training part, so
items that nobody of the group has seen come last.

Shapes: B users of a batch, U users, I items, G groups, N interactions.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from torchrec_priors.data.histories import Histories
from torchrec_priors.plain.log import Log
from torchrec_priors.plain.plain import check_prior
from torchrec_priors.settings.ranges import PositiveShare, Section


@dataclass
class Options(Section):
    """The options of popularity.

    Attributes:
        recent: only this most recent share of the log's interactions is counted; in a log without
            times, this share of each user's history, rounded up.
        prior: the name of a prior of users; empty for one list for everybody.
    """

    recent: PositiveShare = 1.0
    prior: str = ""


class Popularity:
    """Counts of items for each group of users."""

    columns = ()

    def __init__(self, count_GI: sparse.csr_matrix, groups_UG: sparse.csr_matrix) -> None:
        """
        Args:
            count_GI: the interactions of each group with each item; those of all users come last.
            groups_UG: 1 for the groups of each user; the last column is of users of no group.
        """
        self._count_GI = count_GI
        self._groups_UG = groups_UG
        self.numbers = count_GI.nnz

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the counts of the users' groups, [B, I]."""
        assert (users.users >= 0).all(), "only users of the data set have groups"
        scores: np.ndarray = (self._groups_UG[users.users] @ self._count_GI).toarray()
        return scores


def load(options: Options, log: Log) -> Popularity:
    """Counts the interactions of each group of users.

    Raises:
        UserError: the data set has no such prior of users.
    """
    users = len(log.end_U)
    chosen_N = _is_recent(log, options.recent)
    ones = np.ones(int(chosen_N.sum()))
    count_UI = sparse.csr_matrix(
        (ones, (log.user_N[chosen_N], log.item_N[chosen_N])), (users, log.items)
    )

    user = np.zeros(0, np.int64)
    group = user
    groups = 0
    if options.prior:
        check_prior(options.prior, log.data, "user")
        groups = len(log.data.manifest.prior(options.prior).groups)
        user, group = log.data.user_pairs(options.prior)

    of_group_UG = sparse.csr_matrix((np.ones(len(user)), (user, group)), (users, groups))
    everybody_U1 = sparse.csr_matrix(np.ones((users, 1)))
    without_U1 = sparse.csr_matrix((np.bincount(user, minlength=users) == 0)[:, None], dtype=float)
    count_GI = sparse.hstack([of_group_UG, everybody_U1]).T @ count_UI
    return Popularity(count_GI.tocsr(), sparse.hstack([of_group_UG, without_U1]).tocsr())


def _is_recent(log: Log, share: float) -> np.ndarray:
    """Returns bool [N]: whether an interaction is in the last part of the training part."""
    interactions = len(log.item_N)
    times = log.times() if share < 1 else None
    if times is not None:
        # Everything since the first of the last interactions: the same time is not cut in two.
        first = interactions - int(np.ceil(share * interactions))
        recent: np.ndarray = times >= np.partition(times, first)[first]
        return recent

    kept_U = np.ceil(share * log.end_U)
    index_N = np.arange(interactions) - np.repeat(np.cumsum(log.end_U) - log.end_U, log.end_U)
    of_each: np.ndarray = index_N >= np.repeat(log.end_U - kept_U, log.end_U)
    return of_each
