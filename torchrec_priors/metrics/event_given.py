"""Recall, ndcg and entropy of the lists that are found when the events of the targets are given.

These lists are found with only the heads for these events.
"""

from typing import Any

import numpy as np

from torchrec_priors.metrics.accuracy import NAMES
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.metric import Metric, mean
from torchrec_priors.metrics.per_user import CUTOFFS

_PREFIX = "event_given/"


class EventGivenAccuracy(Metric):
    """Averages recall, ndcg and entropy over users. Every batch must have `event_given` lists."""

    needs = ("events",)

    def __init__(self, category: Categories) -> None:
        """
        Args:
            category: the category prior; entropy is over its groups.
        """
        self.category = category
        self.sums = {name: np.zeros(1) for name in ("users", *NAMES)}

    def update(self, batch: RankedBatch) -> None:
        assert batch.event_given is not None
        self.sums["users"] += len(batch.users)

        for cutoff in CUTOFFS:
            for name, value_B in batch.event_given.values(cutoff, self.category).items():
                self.sums[f"{name}@{cutoff}"] += value_B.sum()

    def results(self) -> dict[str, Any]:
        (users,) = self.sums["users"]
        return {_PREFIX + name: mean(self.sums[name][0], users) for name in NAMES}
