"""Recall, ndcg and entropy of single users' lists, which metrics sum and experiments compare by.

For a user with m distinct targets, `hits` of them among the first K:
    recall@K  = hits / m
    ndcg@K    = sum over hits of 1 / log2(rank + 1), over the same sum for min(K, m) hits at the top
    entropy@K = - sum_j (n_j / K) log2(n_j / K) over the categories j among the first K

Shapes: B users, R length of the lists, M distinct (user, target) pairs, T targets with repeats.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.metrics.categories import Categories

CUTOFFS = (5, 10, 50, 200)
DEPTH = max(CUTOFFS)

# What `Ranked.values` gives for each user; metrics, lists for given events and `search.metric`
# follow this list.
KINDS = ("recall", "ndcg", "entropy")

# GAIN[r] is the gain of a hit at rank r, from 0; IDEAL[n] the sum of n hits at the top.
GAIN = 1.0 / np.log2(np.arange(2, DEPTH + 2))
IDEAL = np.concatenate([[0.0], np.cumsum(GAIN)])


@dataclass(frozen=True)
class Ranked:
    """Users' lists next to their targets.

    Attributes:
        row_BR: recommended row ids, best first, at most `DEPTH` columns; -1 after the end of a
            shorter list.
        hit_BR: whether a recommended item is a target.
        user_M, target_M: distinct targets, user after user.
        m_B: the number of distinct targets of each user.
        rank_M: rank of each in its user's list, from 0; `DEPTH` if it is not in the list.
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
        """Compares users' lists with their targets.

        Args:
            targets, target_lengths: future items, user after user, at least one each; repeats count
                once.
            items: size of the catalogue.
        """
        users = len(row_BR)
        row_BR = row_BR[:, :DEPTH]

        # A (user, item) pair is one number, so one sorted array holds the targets of all users.
        user_T = np.repeat(np.arange(users), target_lengths)
        pairs, pair_T = np.unique(user_T * items + targets, return_inverse=True)
        user_M = pairs // items

        # The padding, -1, is also the previous user's last item: hence the check of the row.
        listed = np.arange(users)[:, None] * items + row_BR
        index = np.searchsorted(pairs, listed).clip(max=len(pairs) - 1)
        hit_BR = (pairs[index] == listed) & (row_BR >= 0)
        rank_M = np.full(len(pairs), DEPTH)
        rank_M[index[hit_BR]] = np.nonzero(hit_BR)[1]

        return cls(
            row_BR=row_BR,
            hit_BR=hit_BR,
            user_M=user_M,
            target_M=pairs % items,
            m_B=np.bincount(user_M, minlength=users),
            rank_M=rank_M,
            pair_T=pair_T,
        )

    def values(self, cutoff: int, category: Categories) -> dict[str, np.ndarray]:
        """`recall`, `ndcg` and `entropy` (bits) of each user's first `cutoff` items: [B] each."""
        # A list may have fewer columns than `cutoff`, so gains are cut to the list.
        hits = self.hit_BR[:, :cutoff]
        return {
            "recall": hits.sum(1) / self.m_B,
            "ndcg": hits @ GAIN[: hits.shape[1]] / IDEAL[np.minimum(cutoff, self.m_B)],
            "entropy": _entropy(self.row_BR[:, :cutoff], cutoff, category),
        }


def _entropy(row_BK: np.ndarray, cutoff: int, category: Categories) -> np.ndarray:
    user, column = np.nonzero(row_BK >= 0)
    n_BJ = category.count(user, row_BK[user, column], len(row_BK))
    # For an absent category the share becomes 1, whose logarithm is 0 rather than -inf.
    share = np.where(n_BJ > 0, n_BJ, cutoff) / cutoff
    return np.asarray(-(n_BJ / cutoff * np.log2(share)).sum(1))
