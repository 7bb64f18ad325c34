"""Dropout with masks that depend only on each sequence's key, not on its batch or rank.

A run that is repeated, resumed, or split over another number of ranks drops the same units.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.common import splitmix

_GOLDEN = int(splitmix.GOLDEN)
_MASK = (1 << 63) - 1


def mix(*numbers: int) -> int:
    """Returns a 63-bit hash of a few integers (splitmix64). It serves as a key.

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    return _state(*numbers) & _MASK


def mix_each(*numbers: int, last: np.ndarray) -> np.ndarray:
    """Returns int64 hashes: `mix(*numbers, i)` for every i of `last`.

    >>> mix_each(3, 5, last=np.array([0, 7])).tolist() == [mix(3, 5, 0), mix(3, 5, 7)]
    True
    """
    hashes = splitmix.mix((np.uint64(_state(*numbers)) ^ last.astype(np.uint64)) + splitmix.GOLDEN)
    return (hashes & np.uint64(_MASK)).astype(np.int64)


def _state(*numbers: int) -> int:
    """Returns the 64-bit hash of some integers."""
    state = 0
    for number in numbers:
        state = (state ^ number) + _GOLDEN & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


@dataclass(frozen=True)
class DropoutKeys:
    """One key for each sequence, for one step of training.

    Attributes:
        keys: B integers, `mix(seed, step, index of the sequence in the global batch)`.
        lengths: B token counts.
    """

    keys: list[int]
    lengths: list[int]


def keyed_dropout(x_ND: Tensor, keys: DropoutKeys | None, salt: int, p: float) -> Tensor:
    """Inverted dropout on jagged rows: units are zeroed, and the rest is divided by 1 - p.

    Args:
        x_ND: tokens, one sequence after another, with lengths `keys.lengths`.
        keys: keys and lengths of the sequences; None outside training, where x is not changed.
        salt: a number that is different for each dropout of the network.
        p: probability of zeroing a unit, in [0, 1).
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
