"""The inputs and results of a search: queries, exclusions, and the items that were found.

Shapes: B users, K paths, k results, d width, R repeats.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Found:
    """The best items of each user, best first.

    Attributes:
        row_Bk: int64 row ids of the items; -1 after the end of a shorter list.
        score_Bk: the fused scores, in descending order unless lists were diversified.
        path_Bk: the path that gave the score, or that contributed most to it; K for a repeat.
    """

    row_Bk: Tensor
    score_Bk: Tensor
    path_Bk: Tensor

    def first(self, k: int) -> "Found":
        return Found(self.row_Bk[:, :k], self.score_Bk[:, :k], self.path_Bk[:, :k])


@dataclass(frozen=True)
class Exclusions:
    """Items that must not be recommended, as pairs of a user and a row id.

    Attributes:
        user: the user's position in the batch.
        row: the row id of the item.
    """

    user: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, lengths: np.ndarray) -> "Exclusions":
        """Makes exclusions from row ids, user after user, and the number of ids of each user."""
        return cls(np.repeat(np.arange(len(lengths)), lengths), items)


@dataclass(frozen=True)
class Repeats:
    """Items of users' histories with the scores that the repeat head gives them.

    A search takes these scores instead of those of the paths. A (user, row id) pair occurs once.

    Attributes:
        user_R: the item's user, as a position in the batch.
        row_R: the row id of the item.
        score_R: the score of the item, float32.
    """

    user_R: Tensor
    row_R: Tensor
    score_R: Tensor

    def with_bias(self, bias: float) -> "Repeats":
        """Returns the same items with a number added to their scores."""
        return Repeats(self.user_R, self.row_R, self.score_R + bias)


@dataclass(frozen=True)
class Queries:
    """The queries of a batch of users.

    Attributes:
        vector_BKd: the query of each path, scaled and normalised for scoring.
        bias_BK: added to all scores of a path; -inf if the path is closed to the user.
        repeats: items whose scores are known already; the number of their path is K. None without
            a repeat head.
    """

    vector_BKd: Tensor
    bias_BK: Tensor
    repeats: Repeats | None = None

    def __len__(self) -> int:
        return len(self.bias_BK)

    def within(self, open_BK: Tensor) -> "Queries":
        """Returns the same queries, but closes every path that is not open in `open_BK`."""
        return replace(self, bias_BK=self.bias_BK.masked_fill(~open_BK, -torch.inf))

    def without_repeats(self) -> "Queries":
        return replace(self, repeats=None)

    @classmethod
    def unbiased(cls, vector_BKd: Tensor) -> "Queries":
        return cls(vector_BKd, vector_BKd.new_zeros(vector_BKd.shape[:2]))
