"""Recall, ndcg and entropy, averaged over all users and over newcomers.

A newcomer is a user with a target in a category that does not occur in the user's history.
"""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.metric import Metric, mean
from torchrec_priors.metrics.per_user import CUTOFFS, KINDS

NAMES = tuple(f"{name}@{cutoff}" for name in KINDS for cutoff in CUTOFFS)


class Accuracy(Metric):
    """Averages recall, ndcg and entropy over users.

    Each array in `sums` has two numbers: the sum over all users, and the sum over newcomers.
    """

    def __init__(self, category: Categories) -> None:
        """
        Args:
            category: the category prior. Entropy is over its groups, and newcomers are users with
                a target in a group that is new to them.
        """
        self.category = category
        self.sums = {name: np.zeros(2) for name in ("users", *NAMES)}

    def update(self, batch: RankedBatch) -> None:
        # The values of newcomers are added to both sums, as newcomers are users, too.
        newcomer_B = self.category.new_to(batch.users)
        self.sums["users"] += [len(batch.users), newcomer_B.sum()]

        for cutoff in CUTOFFS:
            for name, value_B in batch.ranked.values(cutoff, self.category).items():
                self.sums[f"{name}@{cutoff}"] += [value_B.sum(), value_B[newcomer_B].sum()]

    def results(self) -> dict[str, Any]:
        """Returns the means over all users, and with the prefix `new_interest/` over newcomers."""
        users, newcomers = self.sums["users"]
        out: dict[str, Any] = {}
        for prefix, column, count in (("", 0, users), ("new_interest/", 1, newcomers)):
            for name in NAMES:
                out[prefix + name] = mean(self.sums[name][column], count)
            out[f"{prefix}users"] = int(count)
        return out
