"""The interface of a metric. To add one: a file with a class of it, and a line in `ranking.py`.

    update      on each rank, for each batch of its users: adds to `sums`
    sum_over    once, after the last batch: every rank then has the sums over all ranks
    results     on each rank: divides the sums, and gives the values their names

`unseen.py` is the shortest example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.metrics.batch import RankedBatch


class Metric(ABC):
    """Accumulates batches; then `sum_over`, and at last `results`.

    Attributes:
        sums: everything that is accumulated, by name. Only sums over users (and items) are kept, so
            that batches and ranks add up.
        needs: columns of the sequences that `update` reads with the targets.
    """

    sums: dict[str, np.ndarray]
    needs: tuple[str, ...] = ()

    @abstractmethod
    def update(self, batch: RankedBatch) -> None:
        """Adds a batch to `sums`."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """Flat names -> numbers, as in `metrics.json`; None for a mean over nobody."""

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up all ranks; `total` gives a tensor's sum over them.

        Each name is one collective, so every rank must have the same names.
        """
        # Sorted, so all ranks sum the same name at the same time.
        for name in sorted(self.sums):
            self.sums[name] = total(torch.from_numpy(self.sums[name])).numpy()


def mean(total: float, count: float) -> float | None:
    """A mean as `metrics.json` holds it: None, which JSON writes as null, for nobody."""
    if not count:
        return None
    return float(total / count)
