"""Counts unseen items, which training did not see, so they have no row of their own.

The other metrics include them.
"""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.metric import Metric


class UnseenCounts(Metric):
    """Counts interactions with unseen items, in histories and in targets.

    Each array in `sums` has two numbers: interactions with unseen items, and all interactions.
    """

    def __init__(self, own_row_I: np.ndarray) -> None:
        """
        Args:
            own_row_I: bool, whether an item has its own row in the embedding table.
        """
        self.unseen_I = ~own_row_I
        # Counts are integers, so they are exact however large they are.
        self.sums = {name: np.zeros(2, np.int64) for name in ("interactions", "targets")}

    def update(self, batch: RankedBatch) -> None:
        users = batch.users
        for name, items in (("interactions", users.seen), ("targets", users.targets)):
            self.sums[name] += [self.unseen_I[items].sum(), len(items)]

    def results(self) -> dict[str, Any]:
        """Returns the number of unseen items, and numbers and shares of interactions with them."""
        out: dict[str, Any] = {"unseen/items": int(self.unseen_I.sum())}
        for name, counts in self.sums.items():
            unseen, total = counts.tolist()
            out[f"unseen/{name}"] = unseen
            out[f"unseen/{name}_share"] = unseen / max(total, 1)
        return out
