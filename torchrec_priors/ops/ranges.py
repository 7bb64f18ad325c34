"""Ranges of numbers, one after another."""

import torch
from torch import Tensor


def numbers(count_S: Tensor) -> Tensor:
    """0 as often as the first count says, 1 as often as the second, and so on.

    >>> numbers(torch.tensor([2, 0, 1])).tolist()
    [0, 0, 2]
    """
    return torch.repeat_interleave(torch.arange(len(count_S), device=count_S.device), count_S)


def ranges(first_S: Tensor, count_S: Tensor) -> tuple[Tensor, Tensor]:
    """(which range, the number) for every number of the ranges first, first + 1, ..., `count` of them.

    >>> [part.tolist() for part in ranges(torch.tensor([7, 5, 0]), torch.tensor([2, 0, 1]))]
    [[0, 0, 2], [7, 8, 0]]
    """
    which = numbers(count_S)
    return which, torch.arange(len(which), device=which.device) + (
        first_S - (count_S.cumsum(0) - count_S)
    )[which]
