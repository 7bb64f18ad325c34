"""Gaussian noise that follows from a key of each sequence alone, as `keyed_dropout` has it for masks."""

import torch
from torch import Tensor

from torchrec_priors.ops.keyed_dropout import DropoutKeys, mix


def keyed_normal(keys: DropoutKeys, salt: int, width: int, device: torch.device) -> Tensor:
    """[N, width] numbers of the standard normal distribution, sequence after sequence as `keys.lengths` says.

    Args:
        salt: tells one use from another, of dropout, too.
    """
    noise = torch.empty(sum(keys.lengths), width)
    generator = torch.Generator()
    start = 0
    for key, length in zip(keys.keys, keys.lengths, strict=True):
        generator.manual_seed(mix(key, salt))
        noise[start : start + length].normal_(generator=generator)
        start += length
    return noise.to(device)
