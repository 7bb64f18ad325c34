"""Dropout with masks that depend only on each sequence's key, not on its batch or rank.

A run that is repeated, resumed, or split over another number of ranks drops the same units. On a
CPU, torch's generator makes the masks, started with the key of each sequence. On a GPU, a unit's
bit is a hash of the sequence's key, the position and the column, so masks are made where they are
used (`hashed_mask`). The two kinds of masks are different.

Shapes: N tokens, B sequences, D columns.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.common import splitmix
from torchrec_priors.ops.gpu_kernel import GpuKernel, has_kernels
from torchrec_priors.ops.pinned import to_device

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
    _of_tokens: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    def of_tokens(self, device: torch.device) -> Tensor:
        """Returns a key for each token on a device, int64 [N]; it is copied there only once."""
        if not self._of_tokens:
            lengths = np.array(self.lengths, np.int64)
            first = np.repeat(np.cumsum(lengths) - lengths, lengths)
            position = (np.arange(len(first)) - first).astype(np.uint64)
            key = np.repeat(np.array(self.keys, np.int64).astype(np.uint64), lengths)
            hashes = splitmix.mix(splitmix.mix(position * splitmix.GOLDEN + key))
            self._of_tokens.append(to_device(hashes.view(np.int64), device))
        return self._of_tokens[0]


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
    if has_kernels(x_ND):
        key_N = keys.of_tokens(x_ND.device)
        out: Tensor = _Dropped.apply(x_ND.flatten(1), key_N, hashed_salt(salt), p)
        return out.view(x_ND.shape)

    keep_ND = dropout_mask(x_ND, keys, salt, p)
    assert keep_ND is not None
    return x_ND * keep_ND.to(x_ND.device)


def dropout_mask(x_ND: Tensor, keys: DropoutKeys | None, salt: int, p: float) -> Tensor | None:
    """Returns what `keyed_dropout` multiplies x with on a CPU; None if it does not change x."""
    if keys is None or p == 0.0:
        return None

    keep = torch.empty(x_ND.shape, dtype=x_ND.dtype)
    generator = torch.Generator()
    start = 0
    for key, length in zip(keys.keys, keys.lengths, strict=True):
        generator.manual_seed(mix(key, salt))
        keep[start : start + length].bernoulli_(1.0 - p, generator=generator)
        start += length
    assert start == len(x_ND), "keys and tokens differ"
    return keep.div_(1.0 - p)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, key_N: Tensor, salt: int, p: float) -> Tensor:
        ctx.save_for_backward(key_N)
        ctx.dropout = (salt, p)
        out_ND: Tensor = DROP(x_ND, key_N, salt, p)
        return out_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (key_N,) = ctx.saved_tensors
        return DROP(grads[0], key_N, *ctx.dropout), None, None, None


def hashed_salt(salt: int) -> int:
    """Returns the number that a salt adds to the keys of tokens."""
    return mix(salt)


def threshold(p: float) -> int:
    """Returns the share p of 2^24: units whose 24 bits are smaller are dropped."""
    return round(p * (1 << 24))


def hashed_mask(key_N: Tensor, salt: int, width: int, p: float) -> Tensor:
    """Returns which units a GPU keeps, bool [N, width]: those with a large hash (splitmix64).

    Args:
        key_N: the keys of tokens.
        salt: see `hashed_salt`.
        width: the number of columns.
        p: probability of dropping a unit.
    """
    column = torch.arange(width, device=key_N.device) + salt
    bits = key_N[:, None] + column
    # Products and sums of int64 wrap like those of uint64; shifts must not copy the sign.
    bits = (bits ^ _shifted(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shifted(bits, 27)) * -0x6B2FB644ECCEEE15
    bits = bits ^ _shifted(bits, 31)
    return _shifted(bits, 40) >= threshold(p)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shifts 64 bits to the right, filling with zeros."""
    return (bits >> places) & ((1 << 64 - places) - 1)


def hashed_dropout(x_ND: Tensor, key_N: Tensor, salt: int, p: float) -> Tensor:
    """The reference of `drop` in `gated_norm_triton.py`: dropout with `hashed_mask`."""
    return x_ND * hashed_mask(key_N, salt, x_ND.shape[1], p) / (1.0 - p)


DROP = GpuKernel("drop", "gated_norm_triton", 1, hashed_dropout)
