"""Metrics of cold items: those without any training interaction.

    cold/recall@K     the share of a user's cold targets among the first K items of the user's list
    cold/ndcg@K       the same with the gains of ndcg; the ideal list has the cold targets first
    cold/coverage@K   the share of cold items that are shown to at least one user
    cold/share@K      the share of cold items among all items that are shown

Recall and ndcg are averaged over users with a cold target.

Shapes: B users, M distinct (user, target) pairs.
"""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.metric import Metric, mean
from torchrec_priors.metrics.per_user import CUTOFFS, GAIN, IDEAL


class ColdItems(Metric):
    """Scores only cold targets, and counts how often cold items are shown.

    The array `shown@K` in `sums` has a number for each cold item; all others have one number.
    """

    def __init__(self, cold_I: np.ndarray) -> None:
        """
        Args:
            cold_I: bool, whether an item has no training interaction.
        """
        self.cold_I = cold_I
        self.number_I = np.cumsum(cold_I) - 1  # among the cold items
        self.items = int(cold_I.sum())
        names = [f"{name}@{cutoff}" for name in ("recall", "ndcg", "lists") for cutoff in CUTOFFS]
        self.sums = {name: np.zeros(1) for name in ("users", "targets", *names)}
        for cutoff in CUTOFFS:
            self.sums[f"shown@{cutoff}"] = np.zeros(self.items)

    def update(self, batch: RankedBatch) -> None:
        ranked = batch.ranked
        users = len(batch.users)

        # Only the cold targets of each user.
        is_cold_M = self.cold_I[ranked.target_M]
        user_M = ranked.user_M[is_cold_M]
        rank_M = ranked.rank_M[is_cold_M]
        m_B = np.bincount(user_M, minlength=users)
        has_B = m_B > 0
        self.sums["users"] += has_B.sum()
        self.sums["targets"] += len(user_M)

        for cutoff in CUTOFFS:
            hit_M = rank_M < cutoff
            hits_B = np.bincount(user_M[hit_M], minlength=users)
            gains_B = np.bincount(user_M[hit_M], GAIN[rank_M[hit_M]], minlength=users)
            ideal_B = IDEAL[np.minimum(cutoff, m_B)]
            self.sums[f"recall@{cutoff}"] += (hits_B[has_B] / m_B[has_B]).sum()
            self.sums[f"ndcg@{cutoff}"] += (gains_B[has_B] / ideal_B[has_B]).sum()

            # Lists with fewer items are padded with -1.
            row_BK = ranked.row_BR[:, :cutoff]
            shown = row_BK[row_BK >= 0]
            cold = self.number_I[shown[self.cold_I[shown]]]
            self.sums[f"shown@{cutoff}"] += np.bincount(cold, minlength=self.items)
            self.sums[f"lists@{cutoff}"] += len(shown)

    def results(self) -> dict[str, Any]:
        users = self.sums["users"][0]
        out: dict[str, Any] = {
            "cold/items": self.items,
            "cold/targets": int(self.sums["targets"][0]),
            "cold/users": int(users),
        }
        for name in ("recall", "ndcg"):
            for cutoff in CUTOFFS:
                out[f"cold/{name}@{cutoff}"] = mean(self.sums[f"{name}@{cutoff}"][0], users)
        for cutoff in CUTOFFS:
            shown_C = self.sums[f"shown@{cutoff}"]
            out[f"cold/coverage@{cutoff}"] = float((shown_C > 0).mean())
            out[f"cold/share@{cutoff}"] = mean(shown_C.sum(), self.sums[f"lists@{cutoff}"][0])
        return out
