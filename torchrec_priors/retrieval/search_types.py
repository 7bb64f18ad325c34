"""What a search takes and gives: queries, exclusions, and the items it found.

Shapes: B users, K paths, k results, d width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Found:
    """Best items of each user, best first.

    Attributes:
        row_Bk: int64 row ids; -1 if there are fewer than k items.
        score_Bk: fused scores; they descend unless lists were diversified.
        path_Bk: the path that gave each score, or most of it.
    """

    row_Bk: Tensor
    score_Bk: Tensor
    path_Bk: Tensor

    def first(self, k: int) -> "Found":
        return Found(self.row_Bk[:, :k], self.score_Bk[:, :k], self.path_Bk[:, :k])


@dataclass(frozen=True)
class Exclusions:
    """Items that must not be recommended, as (user in batch, row id) pairs."""

    user: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, lengths: np.ndarray) -> "Exclusions":
        """From the items of one user after another, `lengths` of them each."""
        return cls(np.repeat(np.arange(len(lengths)), lengths), items)


@dataclass(frozen=True)
class Queries:
    """What a batch of users searches for.

    Attributes:
        vector_BKd: query of every path, scaled and normalised for scoring.
        bias_BK: added to every score of a path; -inf if the user may not use it.
    """

    vector_BKd: Tensor
    bias_BK: Tensor

    def __len__(self) -> int:
        return len(self.bias_BK)

    def within(self, open_BK: Tensor) -> "Queries":
        """The same queries, with all other paths closed."""
        return Queries(self.vector_BKd, self.bias_BK.masked_fill(~open_BK, -torch.inf))

    @classmethod
    def unbiased(cls, vector_BKd: Tensor) -> "Queries":
        return cls(vector_BKd, vector_BKd.new_zeros(vector_BKd.shape[:2]))
