"""Recall, ndcg and entropy of each user's list.

Metrics average them over users, and experiments compare models by them. A user has m distinct
targets. The targets among the first K items of the user's list are hits, at ranks 1 to K. n_j of
these K items are in category j.

    recall@K    hits / m
    ndcg@K      the sum over hits of 1 / log2(rank + 1), divided by the sum that min(K, m) hits at
                the first ranks would give
    entropy@K   -sum over j of (n_j / K) log2(n_j / K)

Shapes: B users, R length of the lists, M distinct (user, target) pairs, T targets with repeats, J
categories.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.metrics.categories import Categories

CUTOFFS = (5, 10, 50, 200)
DEPTH = max(CUTOFFS)

# The values that `Ranked.values` returns for each user. The names in metrics.json and the valid
# values of the setting `search.metric` are made from this list.
KINDS = ("recall", "ndcg", "entropy")

# GAIN[r] is the gain of a hit at rank r, counted from 0. IDEAL[n] is the gain of n hits at the
# first n ranks.
GAIN = 1.0 / np.log2(np.arange(2, DEPTH + 2))
IDEAL = np.concatenate([[0.0], np.cumsum(GAIN)])


@dataclass(frozen=True)
class Ranked:
    """The lists of a batch of users, compared with the users' targets.

    Attributes:
        row_BR: row ids of the recommended items, best first, in at most `DEPTH` columns; -1 after
            the end of a shorter list.
        hit_BR: bool, whether the recommended item is a target.
        user_M, target_M: the user's position in the batch and the item's row id, of each distinct
            target, user after user.
        m_B: the number of distinct targets of each user.
        rank_M: the rank of each distinct target in its user's list, from 0; `DEPTH` if the target
            is not in the list.
        pair_T: for each target, its index among the M distinct targets.
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
            row_BR: row ids of the recommended items, best first; -1 after the end of a shorter
                list.
            targets: row ids of future items, user after user. An item that occurs several times
                counts once.
            target_lengths: the number of each user's targets, at least 1.
            items: the number of items in the catalogue.
        """
        users = len(row_BR)
        row_BR = row_BR[:, :DEPTH]

        # Each (user, item) pair is encoded as one number, so one sorted array holds all targets.
        user_T = np.repeat(np.arange(users), target_lengths)
        pairs, pair_T = np.unique(user_T * items + targets, return_inverse=True)
        user_M = pairs // items

        # The padding, -1, has the same number as the last item of the previous user. So it could be
        # taken for a hit; `row_BR >= 0` prevents that.
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
        """Computes `recall`, `ndcg` and `entropy` (in bits) of each user's first `cutoff` items.

        Returns:
            The values by name, [B] each.
        """
        # The lists may have fewer columns than `cutoff`: then only the first gains are used.
        hits = self.hit_BR[:, :cutoff]
        return {
            "recall": hits.sum(1) / self.m_B,
            "ndcg": hits @ GAIN[: hits.shape[1]] / IDEAL[np.minimum(cutoff, self.m_B)],
            "entropy": _entropy(self.row_BR[:, :cutoff], cutoff, category),
        }


def _entropy(row_BK: np.ndarray, cutoff: int, category: Categories) -> np.ndarray:
    """Returns [B], the entropy of the categories of each user's items."""
    user, column = np.nonzero(row_BK >= 0)
    n_BJ = category.count(user, row_BK[user, column], len(row_BK))
    # The share of an absent category is set to 1: its logarithm is then 0 instead of -inf.
    share = np.where(n_BJ > 0, n_BJ, cutoff) / cutoff
    return np.asarray(-(n_BJ / cutoff * np.log2(share)).sum(1))
