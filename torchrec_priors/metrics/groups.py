"""Recall, ndcg and the numbers of users and targets, for each group of a prior.

The kind of the prior decides which groups a target is in:

    item, graph   the groups of its item
    event         the groups of its event; an item that a user views and buys is a target in the
                  groups of both events
    user          the groups of its user

In each group, recall and ndcg are computed as if the user had only the targets in this group (see
`per_user.py`). They are averaged over the users with a target in the group.

Shapes: B users, G groups, M distinct (user, target) pairs, P (pair, group) pairs: one for each
group of each of the M pairs.
"""

from typing import Any

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.metric import Metric, mean
from torchrec_priors.metrics.per_user import CUTOFFS, GAIN, IDEAL, Ranked

COUNTS = ("users", "targets")
FOUND = "reachable"
VALUES = tuple(f"{name}@{cutoff}" for name in ("recall", "ndcg") for cutoff in CUTOFFS)


class GroupMetrics(Metric):
    """Metrics of each group of one prior. Each array in `sums` has one number for each group."""

    def __init__(self, prior: Categories, *, counts_found: bool = False) -> None:
        """
        Args:
            prior: the groups.
            counts_found: whether to count the targets that can be found at all; batches must then
                have `reachable`.
        """
        self.prior = prior
        self._counts: tuple[str, ...] = COUNTS
        if counts_found:
            self._counts = (*COUNTS, FOUND)
        self.sums = {name: np.zeros(len(prior.groups)) for name in (*self._counts, *VALUES)}
        if prior.entity == "event":
            self.needs = ("events",)

    def update(self, batch: RankedBatch) -> None:
        ranked = batch.ranked
        shape = (len(ranked.m_B), len(self.prior.groups))
        pair_P, group_P = self._members(ranked, batch.users)
        rank_P = ranked.rank_M[pair_P]

        # Each pair of a user and a group is encoded as one number, a cell, so one `bincount` counts
        # the targets of all users in all groups.
        cell_P = ranked.user_M[pair_P] * shape[1] + group_P
        m_BG = np.bincount(cell_P, minlength=shape[0] * shape[1]).reshape(shape)
        has_targets_BG = m_BG > 0
        self.sums["users"] += has_targets_BG.sum(0)
        self.sums["targets"] += m_BG.sum(0)
        if batch.reachable is not None:
            found_P = batch.reachable.found_M[pair_P]
            self.sums[FOUND] += np.bincount(group_P[found_P], minlength=shape[1])

        for cutoff in CUTOFFS:
            inside = rank_P < cutoff
            hits_BG = np.bincount(cell_P[inside], minlength=m_BG.size).reshape(shape)
            gains_BG = np.bincount(cell_P[inside], GAIN[rank_P[inside]], m_BG.size).reshape(shape)
            ideal_BG = IDEAL[np.minimum(cutoff, m_BG)]

            # For a user without a target in the group the denominator is 0. Such a user adds 0 to
            # the sum and is not counted in `users`, so the mean is over the other users.
            recall_BG = np.divide(hits_BG, m_BG, out=np.zeros(shape), where=has_targets_BG)
            ndcg_BG = np.divide(gains_BG, ideal_BG, out=np.zeros(shape), where=has_targets_BG)
            self.sums[f"recall@{cutoff}"] += recall_BG.sum(0)
            self.sums[f"ndcg@{cutoff}"] += ndcg_BG.sum(0)

    def results(self) -> dict[str, Any]:
        """Returns a number for each `group/<prior>/<group>/<name>`; None for a mean of no users."""
        out: dict[str, Any] = {}
        for number, group in enumerate(self.prior.groups):
            prefix = f"group/{self.prior.name}/{group}/"
            users = self.sums["users"][number]
            for name in VALUES:
                value = self.sums[name][number]
                out[prefix + name] = mean(value, users)
            for name in self._counts:
                out[prefix + name] = int(self.sums[name][number])
        return out

    def _members(self, ranked: Ranked, users: Histories) -> tuple[np.ndarray, np.ndarray]:
        """Finds the groups of each distinct target.

        Returns:
            (index into the M pairs, group), each pair once.
        """
        if self.prior.entity == "item":
            return self.prior.expand(ranked.target_M)
        if self.prior.entity == "user":
            return self.prior.expand(users.users[ranked.user_M])

        # A user may have an item as a target several times, with equal or different events. So a
        # group may occur twice, and the (target, group) pairs are made distinct.
        groups = len(self.prior.groups)
        index, group = self.prior.expand(users.target_columns["events"])
        distinct = np.unique(ranked.pair_T[index] * groups + group)
        return distinct // groups, distinct % groups
