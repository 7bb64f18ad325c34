"""Ranges of numbers, one after another."""

import torch
from torch import Tensor


def numbers(count_S: Tensor, size: int | None = None) -> Tensor:
    """Returns the index of each set, repeated `count_S` times.

    Args:
        count_S: the numbers of repetitions.
        size: their sum. Without it, a GPU's host waits for the sum.

    >>> numbers(torch.tensor([2, 0, 1])).tolist()
    [0, 0, 2]
    """
    number_S = torch.arange(len(count_S), device=count_S.device)
    return torch.repeat_interleave(number_S, count_S, output_size=size)


def ranges(first_S: Tensor, count_S: Tensor) -> tuple[Tensor, Tensor]:
    """Lists the ranges first, first + 1, ..., first + count - 1, one after another.

    Returns two tensors with one entry per number: the index of its range, and the number.

    >>> [part.tolist() for part in ranges(torch.tensor([7, 5, 0]), torch.tensor([2, 0, 1]))]
    [[0, 0, 2], [7, 8, 0]]
    """
    range_X = numbers(count_S)
    start_S = count_S.cumsum(0) - count_S
    index_X = torch.arange(len(range_X), device=range_X.device)
    return range_X, index_X + (first_S - start_S)[range_X]
