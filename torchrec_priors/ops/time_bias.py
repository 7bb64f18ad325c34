"""A bias of time: one number per bucket of the logarithm of the time from the key's token to the
query's.

Shapes: N tokens, H heads, C buckets of time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TIME_BUCKETS = 40  # the last begins after 2^39 - 1 seconds: no log is longer


@dataclass(frozen=True)
class TimeBias:
    """Times of tokens, and the bias.

    Attributes:
        time_N: int64 milliseconds of every token, not descending within a sequence.
        bias_HC: one number per head and bucket of `time_bucket`.
    """

    time_N: Tensor
    bias_HC: Tensor


def time_bucket(milliseconds: Tensor) -> Tensor:
    """floor(log2(1 + seconds)) of differences in time, int64; negative ones count as 0.

    >>> time_bucket(torch.tensor([0, 999, 1000, 2999, 3000, 7000])).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    # The exponent is read from the bits of a double: a quotient below 2^c does not round up to it
    # for c < 44.
    ratio = milliseconds.clamp(min=0).double().add_(1000.0).div_(1000.0)
    return ratio.view(torch.int64).bitwise_right_shift_(52).sub_(1023).clamp_(max=TIME_BUCKETS - 1)
