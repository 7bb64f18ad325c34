"""Recall, ndcg and entropy of all users, and of newcomers: users with a target of new interest."""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.metric import Metric, mean
from torchrec_priors.metrics.per_user import CUTOFFS, KINDS

NAMES = tuple(f"{name}@{cutoff}" for name in KINDS for cutoff in CUTOFFS)


class Accuracy(Metric):
    """Means over users. `sums` holds two numbers of each: of all users, and of newcomers."""

    def __init__(self, category: Categories) -> None:
        """
        Args:
            category: the category prior, for entropy and new interest.
        """
        self.category = category
        self.sums = {name: np.zeros(2) for name in ("users", *NAMES)}

    def update(self, batch: RankedBatch) -> None:
        # Newcomers are some of the users: both are summed from the same values.
        newcomer_B = self.category.new_to(batch.users)
        self.sums["users"] += [len(batch.users), newcomer_B.sum()]

        for cutoff in CUTOFFS:
            for name, value_B in batch.ranked.values(cutoff, self.category).items():
                self.sums[f"{name}@{cutoff}"] += [value_B.sum(), value_B[newcomer_B].sum()]

    def results(self) -> dict[str, Any]:
        """Names without a prefix, and with `new_interest/`."""
        users, newcomers = self.sums["users"]
        out: dict[str, Any] = {}
        for prefix, column, count in (("", 0, users), ("new_interest/", 1, newcomers)):
            for name in NAMES:
                out[prefix + name] = mean(self.sums[name][column], count)
            out[f"{prefix}users"] = int(count)
        return out
