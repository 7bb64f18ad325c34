"""Coverage, gini and novelty: metrics of the items that all users together are shown.

An item is shown if it is among the first K items of a user's list.

    coverage@K   the share of the catalogue that is shown to at least one user
    gini@K       the Gini coefficient of how often each item of the catalogue is shown
    novelty@K    the mean of -log2 of an item's share of the training interactions, over all items
                 in all lists
"""

from typing import Any

import numpy as np

from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.metric import Metric
from torchrec_priors.metrics.per_user import CUTOFFS


class Exposure(Metric):
    """Counts how often each item is shown."""

    def __init__(self, items: int, frequency: np.ndarray) -> None:
        """
        Args:
            items: the number of items in the catalogue.
            frequency: the number of training interactions of each item. An item's share of the
                training interactions is (frequency + 1) / (sum of frequencies + items). The 1
                keeps it above 0, so that its logarithm is finite.
        """
        self.items = items
        self.surprise = -np.log2((frequency + 1.0) / (frequency.sum() + items))
        self.sums = {}
        for cutoff in CUTOFFS:
            self.sums[f"shown@{cutoff}"] = np.zeros(items)
            self.sums[f"surprise@{cutoff}"] = np.zeros(1)

    def update(self, batch: RankedBatch) -> None:
        for cutoff in CUTOFFS:
            row_BK = batch.ranked.row_BR[:, :cutoff]
            # Lists with fewer items are padded with -1.
            shown = row_BK[row_BK >= 0]
            self.sums[f"shown@{cutoff}"] += np.bincount(shown, minlength=self.items)
            self.sums[f"surprise@{cutoff}"] += self.surprise[shown].sum()

    def results(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for cutoff in CUTOFFS:
            shown_I = self.sums[f"shown@{cutoff}"]
            surprise = self.sums[f"surprise@{cutoff}"][0]
            # Coverage and gini are over the whole catalogue, including items that are not shown.
            out[f"coverage@{cutoff}"] = float((shown_I > 0).mean())
            out[f"gini@{cutoff}"] = _gini(shown_I)
            out[f"novelty@{cutoff}"] = float(surprise / max(shown_I.sum(), 1))
        return out


def _gini(shown_I: np.ndarray) -> float:
    """Returns the Gini coefficient of how often items are shown.

    It is 0 if all items are shown equally often, and near 1 if only one item is shown.
    """
    ordered = np.sort(shown_I)
    total = ordered.sum()
    if total == 0:
        return 0.0
    # The mean absolute difference of all pairs, relative to twice the mean, from sorted values.
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))
