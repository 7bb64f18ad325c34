"""Gaussian noise that depends only on each sequence's key, like the masks of `keyed_dropout`."""

import torch
from torch import Tensor

from torchrec_priors.ops.keyed_dropout import DropoutKeys, mix


def keyed_normal(keys: DropoutKeys, salt: int, width: int, device: torch.device) -> Tensor:
    """Returns standard normal numbers, [N, width], for all tokens, one sequence after another.

    Args:
        keys: keys and lengths of the sequences.
        salt: a number that is different for each use of `keyed_normal` and `keyed_dropout`.
        width: numbers per token.
        device: device of the result.
    """
    noise = torch.empty(sum(keys.lengths), width)
    generator = torch.Generator()
    start = 0
    for key, length in zip(keys.keys, keys.lengths, strict=True):
        generator.manual_seed(mix(key, salt))
        noise[start : start + length].normal_(generator=generator)
        start += length
    return noise.to(device)
