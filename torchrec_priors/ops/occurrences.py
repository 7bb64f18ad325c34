"""Finds the earlier occurrences of items in jagged histories.

Shapes: N positions of histories, one history after another; M (position, item) pairs; O of their
occurrences.
"""

import torch
from torch import Tensor

from torchrec_priors.ops.ranges import numbers, ranges


def occurrences(
    item_N: Tensor, offsets_B1: Tensor, position_M: Tensor, item_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Finds where each item occurs in its history, up to and including a position.

    Args:
        item_N: row ids of the histories' items.
        offsets_B1: bounds of the histories.
        position_M: the last position of each pair that counts.
        item_M: the item of each pair.

    Returns:
        The pair and the position of each occurrence, [O] each, by pair, then by position.

    Example:
        >>> milk, bread = 7, 5
        >>> history = torch.tensor([milk, bread, milk])
        >>> pairs = occurrences(history, torch.tensor([0, 3]), torch.tensor([1, 2]),
        ...                     torch.tensor([milk, milk]))
        >>> [part.tolist() for part in pairs]
        [[0, 1, 1], [0, 0, 2]]
    """
    if not len(item_N) or not len(item_M):
        empty = position_M.new_zeros(0)
        return empty, empty

    # The sort is stable: the positions of an item in a history are ascending.
    span = torch.maximum(item_N.amax(), item_M.amax()) + 1
    history_N = numbers(offsets_B1.diff())
    key_N, sorted_N = torch.sort(history_N * span + item_N, stable=True)

    key_M = history_N[position_M] * span + item_M
    first_M = torch.searchsorted(key_N, key_M)
    count_M = torch.searchsorted(key_N, key_M, right=True) - first_M
    pair_O, index_O = ranges(first_M, count_M)

    position_O = sorted_N[index_O]
    earlier_O = position_O <= position_M[pair_O]
    return pair_O[earlier_O], position_O[earlier_O]
