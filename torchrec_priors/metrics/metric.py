"""The interface of a metric.

Each rank calls three methods:

    update      for each batch of its users: adds the batch to `sums`
    sum_over    once, after the last batch: every rank then has the sums over all ranks
    results     once, at the end: divides the sums, and gives the values their names

To add a metric, write a class that implements the interface in a new file, and list the class in
`ranking.py`. `unseen.py` is the shortest example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.metrics.batch import RankedBatch


class Metric(ABC):
    """A metric that is accumulated over batches and ranks.

    Attributes:
        sums: everything that is accumulated, by name. Every value is a sum over users (and items),
            so the values of batches and ranks can be added up.
        needs: the columns of the sequences that `update` reads for the targets.
    """

    sums: dict[str, np.ndarray]
    needs: tuple[str, ...] = ()

    @abstractmethod
    def update(self, batch: RankedBatch) -> None:
        """Adds a batch to `sums`."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """Returns a number for each name in `metrics.json`; None for a mean of no users."""

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up `sums` over all ranks.

        Each name is summed in one collective, so every rank must have the same names.

        Args:
            total: sums a tensor over ranks.
        """
        # Names are sorted, so that all ranks sum the same name at the same time.
        for name in sorted(self.sums):
            self.sums[name] = total(torch.from_numpy(self.sums[name])).numpy()


def mean(total: float, count: float) -> float | None:
    """Returns a mean for `metrics.json`; None, which is null in JSON, if `count` is 0."""
    if not count:
        return None
    return float(total / count)
