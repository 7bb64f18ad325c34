"""Squares of the gradients of a table's rows, each row's gradient being the sum over its
occurrences in a batch.

Shapes: N ids looked up, U different ones, R rows of the table, d columns.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Occurrences:
    """The places of each row among the ids of a batch.

    Attributes:
        row_U: the rows that occur, ascending.
        place_N: places of the ids, row after row.
        first_U: first place of each row in `place_N`.
    """

    row_U: Tensor
    place_N: Tensor
    first_U: Tensor

    @classmethod
    def of(cls, row_N: Tensor) -> "Occurrences":
        """
        >>> import torch
        >>> found = Occurrences.of(torch.tensor([7, 3, 7]))
        >>> found.row_U.tolist(), found.place_N.tolist(), found.first_U.tolist()
        ([3, 7], [1, 0, 2], [0, 1])
        """
        sorted_N, place_N = row_N.sort(stable=True)
        row_U, count_U = sorted_N.unique_consecutive(return_counts=True)
        return cls(row_U, place_N, count_U.cumsum(0) - count_U)


def row_squares_reference(row_N: Tensor, gradient_Nd: Tensor, rows: int) -> Tensor:
    """[R]: sum over columns of the square of each row's gradient, one id after the other."""
    whole_Rd = gradient_Nd.new_zeros(rows, gradient_Nd.shape[1])
    for row, gradient_d in zip(row_N.tolist(), gradient_Nd, strict=True):
        whole_Rd[row] += gradient_d
    return whole_Rd.square().sum(1)


def row_squares(found: Occurrences, gradient_Nd: Tensor) -> Tensor:
    """[U]: the same for the rows that occur; sums are in the order of the ids, the same in every
    run.
    """
    if not len(found.place_N):
        return gradient_Nd.new_zeros(0)
    sum_Ud: Tensor = F.embedding_bag(found.place_N, gradient_Nd, found.first_U, mode="sum")
    return sum_Ud.square_().sum(1)
