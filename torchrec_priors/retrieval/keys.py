"""Encodes a found item, with its score and row id, as one 64-bit key.

A higher score has a larger key. If scores are equal, a smaller row id has a larger key.
"""

import torch
from torch import Tensor

LOW = (1 << 32) - 1  # the lower half of a key is LOW - row id
NOTHING = -(1 << 63)  # the key of a place in a list without an item


def encode(score: Tensor, row: Tensor) -> Tensor:
    """Returns the keys of float32 scores and row ids, which are broadcast against each other.

    The key of a score of -inf is `NOTHING`.
    """
    # Adding 0.0 turns -0.0 into 0.0, so that equal scores have equal bits. The bits of negative
    # floats, read as integers, are in descending order; flipping all bits but the sign corrects it.
    bits = (score + 0.0).view(torch.int32)
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    return ((ordered << 32) + (LOW - row)).masked_fill(torch.isneginf(score), NOTHING)


def score_of(keys: Tensor) -> Tensor:
    """Returns the float32 scores of keys; -inf for `NOTHING`."""
    ordered = (keys >> 32).int()
    score = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32)
    return score.masked_fill(keys == NOTHING, -torch.inf)


def row_of(keys: Tensor) -> Tensor:
    """Returns the int64 row ids of keys; -1 for `NOTHING`."""
    return (LOW - (keys & LOW)).masked_fill(keys == NOTHING, -1)
