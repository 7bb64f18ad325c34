"""The inputs and results of a search: queries, exclusions, and the items that were found.

Shapes: B users, K paths, k results, d width, R repeats.
"""

from collections.abc import Sequence
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

    def put(self, users: Sequence[int], found: "Found") -> None:
        """Writes the lists of some users, which may be shorter than the others."""
        k = found.row_Bk.shape[1]
        chosen = list(users)
        self.row_Bk[chosen, :k] = found.row_Bk
        self.score_Bk[chosen, :k] = found.score_Bk
        self.path_Bk[chosen, :k] = found.path_Bk.long()

    def of(self, users: Sequence[int]) -> "Found":
        """Returns the lists of some users, in the given order."""
        chosen = list(users)
        return Found(self.row_Bk[chosen], self.score_Bk[chosen], self.path_Bk[chosen])

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

    @classmethod
    def none(cls) -> "Exclusions":
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def of_users(self, users: Sequence[int]) -> "Exclusions":
        """Returns the items of some users, who are numbered again in the given order."""
        number = np.full(max(users, default=0) + 1, -1)
        number[list(users)] = np.arange(len(users))
        inside = np.flatnonzero(self.user < len(number))
        inside = inside[number[self.user[inside]] >= 0]
        return Exclusions(number[self.user[inside]], self.row[inside])

    def by_user(self, users: int) -> tuple[np.ndarray, np.ndarray]:
        """Sorts the items of each user.

        Returns:
            The row ids, int64, user after user and ascending for each; and int64 [users + 1], where
            those of each user start.
        """
        if users == 1:
            return np.sort(self.row.astype(np.int64)), np.array([0, len(self.row)])
        pairs = np.sort((self.user.astype(np.int64) << 32) + self.row)
        starts = np.searchsorted(pairs, np.arange(users + 1) << 32)
        return pairs & 0xFFFFFFFF, starts


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

    def of_users(self, users: Sequence[int], of_all: int) -> "Repeats":
        """Returns the items of some of all users, who are numbered again in the given order."""
        number_B = torch.full((of_all,), -1, device=self.user_R.device)
        number_B[list(users)] = torch.arange(len(users), device=self.user_R.device)
        kept = number_B[self.user_R] >= 0
        return Repeats(number_B[self.user_R[kept]], self.row_R[kept], self.score_R[kept])

    def with_biases(self, bias_B: Tensor) -> "Repeats":
        """Returns the same items with a number of their user added to their scores.

        Items of users with -inf are left out.
        """
        score_R = self.score_R + bias_B[self.user_R]
        kept = ~torch.isneginf(score_R)
        return Repeats(self.user_R[kept], self.row_R[kept], score_R[kept])


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

    def of(self, users: Sequence[int]) -> "Queries":
        """Returns the queries of some users, in the given order."""
        repeats = None if self.repeats is None else self.repeats.of_users(users, len(self))
        chosen = list(users)
        return Queries(self.vector_BKd[chosen], self.bias_BK[chosen], repeats)

    def within(self, open_BK: Tensor) -> "Queries":
        """Returns the same queries, but closes every path that is not open in `open_BK`."""
        return replace(self, bias_BK=self.bias_BK.masked_fill(~open_BK, -torch.inf))

    def without_repeats(self) -> "Queries":
        return replace(self, repeats=None)

    @classmethod
    def unbiased(cls, vector_BKd: Tensor) -> "Queries":
        return cls(vector_BKd, vector_BKd.new_zeros(vector_BKd.shape[:2]))
