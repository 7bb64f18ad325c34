"""A time bias for attention.

The time from a key's token to a query's token is sorted into buckets of its logarithm. Each head
has one number per bucket.

Shapes: N tokens, H heads, C buckets of time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TIME_BUCKETS = 40  # the last bucket begins at 2^39 - 1 seconds: no log is that long


@dataclass(frozen=True)
class TimeBias:
    """The times of tokens, and the biases.

    Attributes:
        time_N: int64 milliseconds of every token, not descending within a sequence.
        bias_HC: one number per head and bucket (see `time_bucket`).
    """

    time_N: Tensor
    bias_HC: Tensor


def time_bucket(milliseconds: Tensor) -> Tensor:
    """Returns floor(log2(1 + seconds)) of differences in time, int64; negative ones count as 0.

    >>> time_bucket(torch.tensor([0, 999, 1000, 2999, 3000, 7000])).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    # The exponent in the bits of a double is the floor of its log2. This is exact: for c < 44, a
    # quotient below 2^c is not rounded up to 2^c.
    ratio = milliseconds.clamp(min=0).double().add_(1000.0).div_(1000.0)
    return ratio.view(torch.int64).bitwise_right_shift_(52).sub_(1023).clamp_(max=TIME_BUCKETS - 1)
