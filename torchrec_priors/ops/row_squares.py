"""Sums of squares of the gradients of a table's rows.

A row's gradient is the sum of the gradients of its occurrences in a batch.

Shapes: N ids that are looked up, U different ids, R rows of the table, d columns.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Occurrences:
    """The places at which each row occurs among the ids of a batch.

    Attributes:
        row_U: the rows that occur, ascending.
        place_N: places of the first row, then of the second row, and so on.
        first_U: index in `place_N` at which each row's places begin.
    """

    row_U: Tensor
    place_N: Tensor
    first_U: Tensor

    @classmethod
    def of(cls, row_N: Tensor) -> "Occurrences":
        """Finds the occurrences of all rows in a batch of ids.

        >>> import torch
        >>> found = Occurrences.of(torch.tensor([7, 3, 7]))
        >>> found.row_U.tolist(), found.place_N.tolist(), found.first_U.tolist()
        ([3, 7], [1, 0, 2], [0, 1])
        """
        sorted_N, place_N = row_N.sort(stable=True)
        row_U, count_U = sorted_N.unique_consecutive(return_counts=True)
        return cls(row_U, place_N, count_U.cumsum(0) - count_U)


def row_squares_reference(row_N: Tensor, gradient_Nd: Tensor, rows: int) -> Tensor:
    """The definition, id by id. Returns the sum of squares of every row of the table, [R]."""
    whole_Rd = gradient_Nd.new_zeros(rows, gradient_Nd.shape[1])
    for row, gradient_d in zip(row_N.tolist(), gradient_Nd, strict=True):
        whole_Rd[row] += gradient_d
    return whole_Rd.square().sum(1)


def row_squares(occurrences: Occurrences, gradient_Nd: Tensor) -> Tensor:
    """Returns the sums of squares of the rows that occur, [U].

    Gradients are added in the order of the ids, so every run has the same result.
    """
    if not len(occurrences.place_N):
        return gradient_Nd.new_zeros(0)
    sum_Ud: Tensor = F.embedding_bag(
        occurrences.place_N, gradient_Nd, occurrences.first_U, mode="sum"
    )
    return sum_Ud.square_().sum(1)
