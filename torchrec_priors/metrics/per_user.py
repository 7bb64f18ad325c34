"""Recall, ndcg and entropy of single users' ranked lists: what `RankingMetrics` sums and experiments compare by.

For a user with m distinct targets, `hits` among the first K:
    recall@K  = hits / m
    ndcg@K    = sum over hits of 1 / log2(rank + 1), over the same sum for min(K, m) hits at the top
    entropy@K = - sum_j (n_j / K) log2(n_j / K) over the categories j among the first K

Shapes: B users, R length of the lists, M distinct (user, target) pairs, T targets with their repeats.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.metrics.categories import Categories

CUTOFFS = (5, 10, 50, 200)
DEPTH = max(CUTOFFS)

GAIN = 1.0 / np.log2(np.arange(2, DEPTH + 2))
IDEAL = np.concatenate([[0.0], np.cumsum(GAIN)])


@dataclass(frozen=True)
class Ranked:
    """Users' lists beside their targets.

    Attributes:
        row_BR: recommended row ids, best first, `DEPTH` columns at most; -1 where a list is shorter.
        hit_BR: whether a recommended item is a target.
        user_M, target_M: distinct targets, user after user.
        m_B: how many a user has.
        rank_M: where they stand in their users' lists, from 0; `DEPTH` where they do not.
        pair_T: which of the M a target is.
    """

    row_BR: np.ndarray
    hit_BR: np.ndarray
    user_M: np.ndarray
    target_M: np.ndarray
    m_B: np.ndarray
    rank_M: np.ndarray
    pair_T: np.ndarray

    @classmethod
    def of(
        cls, row_BR: np.ndarray, targets: np.ndarray, target_lengths: np.ndarray, items: int
    ) -> "Ranked":
        """
        Args:
            targets, target_lengths: future items, user after user, at least one each; repeats count once.
            items: size of the catalogue.
        """
        users = len(row_BR)
        row_BR = row_BR[:, :DEPTH]
        keys, pair_T = np.unique(
            np.repeat(np.arange(users), target_lengths) * items + targets, return_inverse=True
        )
        top = np.arange(users)[:, None] * items + row_BR
        place = np.searchsorted(keys, top).clip(max=len(keys) - 1)
        hit_BR = (keys[place] == top) & (row_BR >= 0)
        rank_M = np.full(len(keys), DEPTH)
        rank_M[place[hit_BR]] = np.nonzero(hit_BR)[1]
        user_M = keys // items
        return cls(
            row_BR,
            hit_BR,
            user_M,
            keys % items,
            np.bincount(user_M, minlength=users),
            rank_M,
            pair_T,
        )

    def values(self, cutoff: int, category: Categories) -> dict[str, np.ndarray]:
        """`recall`, `ndcg` and `entropy` (bits) of the first `cutoff` items of each user: float64 [B] each."""
        hits = self.hit_BR[:, :cutoff]
        return {
            "recall": hits.sum(1) / self.m_B,
            "ndcg": hits @ GAIN[: hits.shape[1]] / IDEAL[np.minimum(cutoff, self.m_B)],
            "entropy": _entropy(self.row_BR[:, :cutoff], cutoff, category),
        }


def _entropy(row_BK: np.ndarray, cutoff: int, category: Categories) -> np.ndarray:
    user, column = np.nonzero(row_BK >= 0)
    n_BJ = category.count(user, row_BK[user, column], len(row_BK))
    share = np.where(n_BJ > 0, n_BJ, cutoff) / cutoff  # log of 1 where a category is absent
    return np.asarray(-(n_BJ / cutoff * np.log2(share)).sum(1))
