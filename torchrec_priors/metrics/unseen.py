"""How much of what a model is evaluated on are items without a row of their own: counted, never taken out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories


class UnseenCounts:
    """Accumulates batches; `sum_over` and then `results`."""

    def __init__(self, own_row_I: np.ndarray) -> None:
        """
        Args:
            own_row_I: bool, items that have a row to themselves.
        """
        self.unseen_I = ~own_row_I
        self._sums = np.zeros(4, np.int64)

    def update(self, users: Histories) -> None:
        for place, items in enumerate((users.seen, users.targets)):
            self._sums[2 * place : 2 * place + 2] += [self.unseen_I[items].sum(), len(items)]

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up all ranks."""
        self._sums = total(torch.from_numpy(self._sums)).numpy()

    def results(self) -> dict[str, Any]:
        """Items, and of the interactions in histories and of the targets how many are with them, and the shares."""
        seen, all_seen, targets, all_targets = self._sums.tolist()
        return {
            "unseen/items": int(self.unseen_I.sum()),
            "unseen/interactions": seen,
            "unseen/interactions_share": seen / max(all_seen, 1),
            "unseen/targets": targets,
            "unseen/targets_share": targets / max(all_targets, 1),
        }
