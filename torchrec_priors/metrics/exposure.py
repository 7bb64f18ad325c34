"""Which items are shown, to all users together: coverage, gini and novelty.

coverage@K = share of the catalogue among the first K of anybody
gini@K     = Gini coefficient of how often each item of the catalogue is among them
novelty@K  = mean over shown items of -log2 of the item's share of the training interactions
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
            items: size of the catalogue.
            frequency: training interactions of each item. The popularity of an item is
                (frequency + 1) / (sum of frequencies + items), so it is never 0.
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
            # Without the padding of lists that are shorter.
            shown = row_BK[row_BK >= 0]
            self.sums[f"shown@{cutoff}"] += np.bincount(shown, minlength=self.items)
            self.sums[f"surprise@{cutoff}"] += self.surprise[shown].sum()

    def results(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for cutoff in CUTOFFS:
            shown_I = self.sums[f"shown@{cutoff}"]
            surprise = self.sums[f"surprise@{cutoff}"][0]
            # Everything is over the whole catalogue, also items that nobody was shown.
            out[f"coverage@{cutoff}"] = float((shown_I > 0).mean())
            out[f"gini@{cutoff}"] = _gini(shown_I)
            out[f"novelty@{cutoff}"] = float(surprise / max(shown_I.sum(), 1))
        return out


def _gini(shown_I: np.ndarray) -> float:
    """Gini coefficient of how often items are shown: 0 all equally, near 1 a single item."""
    ordered = np.sort(shown_I)
    total = ordered.sum()
    if total == 0:
        return 0.0
    # The usual formula over sorted values: the mean absolute difference of all pairs.
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))
