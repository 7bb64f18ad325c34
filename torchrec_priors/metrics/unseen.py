"""How many of the evaluated items have no row of their own: they are counted, never left out."""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.metric import Metric


class UnseenCounts(Metric):
    """`sums` holds two numbers of each: interactions with unseen items, and all interactions."""

    def __init__(self, own_row_I: np.ndarray) -> None:
        """
        Args:
            own_row_I: bool, items that have a row of their own.
        """
        self.unseen_I = ~own_row_I
        # Counts of interactions stay integers, so they are exact.
        self.sums = {name: np.zeros(2, np.int64) for name in ("interactions", "targets")}

    def update(self, batch: RankedBatch) -> None:
        users = batch.users
        for name, items in (("interactions", users.seen), ("targets", users.targets)):
            self.sums[name] += [self.unseen_I[items].sum(), len(items)]

    def results(self) -> dict[str, Any]:
        """The number of unseen items, and of the interactions with them in histories and targets,
        with their shares."""
        out: dict[str, Any] = {"unseen/items": int(self.unseen_I.sum())}
        for name, counts in self.sums.items():
            unseen, everything = counts.tolist()
            out[f"unseen/{name}"] = unseen
            out[f"unseen/{name}_share"] = unseen / max(everything, 1)
        return out
