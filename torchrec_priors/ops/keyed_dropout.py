"""Dropout whose mask follows from a key of each sequence alone: not from the batch it is in, nor from the rank.

A run repeated, resumed, or split over another number of ranks drops the same units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


def mix(*numbers: int) -> int:
    """A 63-bit hash of a few integers (splitmix64), for keys.

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    state = 0
    for number in numbers:
        state = (state ^ number) + _GOLDEN & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & _MASK


@dataclass(frozen=True)
class DropoutKeys:
    """One key a sequence, for one step of training.

    Attributes:
        keys: B integers, `mix(seed, step, index of the sequence in the global batch)`.
        lengths: B token counts.
    """

    keys: list[int]
    lengths: list[int]


def keyed_dropout(x_ND: Tensor, keys: DropoutKeys | None, salt: int, p: float) -> Tensor:
    """Inverted dropout on jagged rows: zero with probability p, the rest times 1 / (1 - p).

    Args:
        x_ND: tokens, sequence after sequence as `keys.lengths` says.
        keys: None outside training: x is returned as it is.
        salt: tells one dropout of the network from another.
        p: probability in [0, 1).
    """
    if keys is None or p == 0.0:
        return x_ND
    keep = torch.empty(x_ND.shape, dtype=x_ND.dtype)
    generator = torch.Generator()
    start = 0
    for key, length in zip(keys.keys, keys.lengths, strict=True):
        generator.manual_seed(mix(key, salt))
        keep[start : start + length].bernoulli_(1.0 - p, generator=generator)
        start += length
    assert start == len(x_ND), "keys and tokens differ"
    return x_ND * keep.to(x_ND.device).div_(1.0 - p)
