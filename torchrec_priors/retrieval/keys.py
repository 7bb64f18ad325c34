"""A found item as one 64-bit key.

Keys ascend with the score and, at equal scores, descend with the row id.
"""

import torch
from torch import Tensor

# The lower half holds LOW - row: of equal scores the smaller row has the larger key.
LOW = (1 << 32) - 1
NOTHING = -(1 << 63)


def encode(score: Tensor, row: Tensor) -> Tensor:
    """Keys of float32 scores and row ids, of shapes that broadcast; `NOTHING` for -inf."""
    # -0.0 becomes 0.0, its equal. The bits of negative floats descend: all but the sign is flipped.
    bits = (score + 0.0).view(torch.int32)
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    return ((ordered << 32) + (LOW - row)).masked_fill(torch.isneginf(score), NOTHING)


def score_of(keys: Tensor) -> Tensor:
    """float32 scores; -inf for `NOTHING`."""
    ordered = (keys >> 32).int()
    score = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32)
    return score.masked_fill(keys == NOTHING, -torch.inf)


def row_of(keys: Tensor) -> Tensor:
    """int64 row ids; -1 for `NOTHING`."""
    return (LOW - (keys & LOW)).masked_fill(keys == NOTHING, -1)
