"""Recall and ndcg of the targets in each group of a prior, and how many users and targets there are.

    item, graph   a target is in the groups of its item
    event         in those of its own event: an item that a user views and buys is a target of both groups
    user          in those of its user

A user's targets in a group are scored as if there were no others: `m` distinct ones, and the hits among them (see
`per_user.py`). Means are over users with a target in the group.

Shapes: B users, G groups, M distinct (user, target) pairs, P pairs of one of these and a group it is in.
"""

from typing import Any

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import CUTOFFS, GAIN, IDEAL, Ranked

COUNTS = ("users", "targets")
FOUND = "reachable"
VALUES = tuple(f"{name}@{cutoff}" for name in ("recall", "ndcg") for cutoff in CUTOFFS)


class GroupMetrics:
    """Accumulates batches. `sums` holds [G] of each value and count, summed over users."""

    def __init__(self, prior: Categories, *, counts_found: bool = False) -> None:
        """
        Args:
            counts_found: whether `update` is told which targets could be found at all.
        """
        self.prior = prior
        self._counts = (*COUNTS, FOUND) if counts_found else COUNTS
        self.sums = {name: np.zeros(len(prior.groups)) for name in (*self._counts, *VALUES)}

    def update(self, ranked: Ranked, users: Histories, found_M: np.ndarray | None = None) -> None:
        """A batch; an event prior needs the targets' events.

        Args:
            found_M: bool, distinct targets that could be found (`Reach`).
        """
        shape = (len(ranked.m_B), len(self.prior.groups))
        pair_P, group_P = self._members(ranked, users)
        cell_P = ranked.user_M[pair_P] * shape[1] + group_P
        rank_P = ranked.rank_M[pair_P]
        m_BG = np.bincount(cell_P, minlength=shape[0] * shape[1]).reshape(shape)
        has = m_BG > 0
        self.sums["users"] += has.sum(0)
        self.sums["targets"] += m_BG.sum(0)
        if found_M is not None:
            self.sums[FOUND] += np.bincount(group_P[found_M[pair_P]], minlength=shape[1])
        for cutoff in CUTOFFS:
            inside = rank_P < cutoff
            hits_BG = np.bincount(cell_P[inside], minlength=m_BG.size).reshape(shape)
            gains_BG = np.bincount(cell_P[inside], GAIN[rank_P[inside]], m_BG.size).reshape(shape)
            ideal_BG = IDEAL[np.minimum(cutoff, m_BG)]
            self.sums[f"recall@{cutoff}"] += np.divide(
                hits_BG, m_BG, out=np.zeros(shape), where=has
            ).sum(0)
            self.sums[f"ndcg@{cutoff}"] += np.divide(
                gains_BG, ideal_BG, out=np.zeros(shape), where=has
            ).sum(0)

    def results(self) -> dict[str, Any]:
        """`group/<prior>/<group>/<name>` -> number; None for means over nobody."""
        out: dict[str, Any] = {}
        for number, group in enumerate(self.prior.groups):
            users = self.sums["users"][number]
            for name in VALUES:
                value = self.sums[name][number]
                out[f"group/{self.prior.name}/{group}/{name}"] = (
                    float(value / users) if users else None
                )
            for name in self._counts:
                out[f"group/{self.prior.name}/{group}/{name}"] = int(self.sums[name][number])
        return out

    def _members(self, ranked: Ranked, users: Histories) -> tuple[np.ndarray, np.ndarray]:
        """(which of the M, group), each once."""
        if self.prior.entity == "item":
            return self.prior.expand(ranked.target_M)
        if self.prior.entity == "user":
            return self.prior.expand(users.users[ranked.user_M])
        index, group = self.prior.expand(users.target_columns["events"])
        each = np.unique(ranked.pair_T[index] * len(self.prior.groups) + group)
        return each // len(self.prior.groups), each % len(self.prior.groups)
