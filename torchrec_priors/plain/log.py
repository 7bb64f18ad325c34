"""The training part of a log, as the arrays and sparse matrices that plain baselines count in.

Shapes: U users, I items, N interactions of the training part, B users of a batch.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from torchrec_priors.data.histories import Histories
from torchrec_priors.prepared.data_set import PreparedData


@dataclass(frozen=True)
class Log:
    """All interactions that may be fitted to, one user after another, each in order of time.

    Attributes:
        data: the data set.
        user_N: int64, the index of each interaction's user in file order.
        item_N: int64, its item.
        end_U: int64, the number of each user's interactions.
    """

    data: PreparedData
    user_N: np.ndarray
    item_N: np.ndarray
    end_U: np.ndarray

    @classmethod
    def of(cls, data: PreparedData, end_U: np.ndarray) -> "Log":
        """Reads the first `end_U` interactions of each history."""
        parts = [
            users.items[_first(users.lengths, end_U[group.first_user :])]
            for group in data.row_groups
            for users in [data.read_users(group)]
        ]
        end_U = end_U.astype(np.int64)
        user_N = np.repeat(np.arange(data.users), end_U)
        return cls(data, user_N, np.concatenate(parts), end_U)

    @property
    def items(self) -> int:
        """I, the number of items of the catalogue."""
        return self.data.items

    @cached_property
    def frequency_I(self) -> np.ndarray:
        """The number of interactions of each item, int64."""
        return np.bincount(self.item_N, minlength=self.items)

    @cached_property
    def order_I(self) -> np.ndarray:
        """All items, the most popular first; of equally popular ones, the lower row id first."""
        return np.argsort(-self.frequency_I, kind="stable")

    @cached_property
    def seen_UI(self) -> sparse.csr_matrix:
        """1 for the items of each user's history, else 0; float64."""
        return _marked(self.user_N, self.item_N, (len(self.end_U), self.items))

    def times(self) -> np.ndarray | None:
        """Returns the time of each interaction in ms, int64 [N]; None if the log has no times."""
        if not self.data.manifest.has_times:
            return None
        parts = [
            users.columns["timestamps"][_first(users.lengths, self.end_U[group.first_user :])]
            for group in self.data.row_groups
            for users in [self.data.read_users(group, ["timestamps"])]
        ]
        return np.concatenate(parts)


def bags(users: Histories, items: int, last: int = 0) -> sparse.csr_matrix:
    """Returns 1 for the items of each user's history, else 0: float64 [B, I].

    Args:
        users: a batch of users.
        items: I.
        last: the number of latest items of each history that are used; 0 for all.
    """
    user_X, item_X, _ = occurrences(users, last)
    return _marked(user_X, item_X, (len(users), items))


def occurrences(users: Histories, last: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the interactions of histories, each in order of time.

    Args:
        users: a batch of users.
        last: how many last items of each history are used; 0 for all.

    Returns:
        (user, item, age), int64 [X] each: the user's number in the batch, the item, and how many
        interactions the history has after it.
    """
    user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
    end_X = np.repeat(np.cumsum(users.seen_lengths), users.seen_lengths)
    age_X = end_X - 1 - np.arange(len(users.seen))
    if not last:
        return user_X, users.seen, age_X

    recent = age_X < last
    return user_X[recent], users.seen[recent], age_X[recent]


def _marked(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Returns a matrix that is 1 at all given places, which may repeat, and 0 elsewhere."""
    matrix = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape)
    # Repeated places were added up.
    matrix.data[:] = 1
    return matrix


def _first(lengths: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns bool: whether an item is among the first `ends` items of its history."""
    starts = np.cumsum(lengths) - lengths
    index = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    first: np.ndarray = index < np.repeat(ends[: len(lengths)], lengths)
    return first
