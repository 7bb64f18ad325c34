"""The position of each interaction in its history, for encoders with a largest history length."""

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import on_gpu


def positions(offsets_B1: Tensor, tokens: int, context: int) -> Tensor:
    """Returns the position of each interaction, int64 [N]: 0 for the first one of each history.

    >>> positions(torch.tensor([0, 2, 5]), 5, context=3).tolist()
    [0, 1, 0, 1, 2]

    Args:
        offsets_B1: bounds of the histories.
        tokens: N, which is also the last offset.
        context: largest length of a history.

    Raises:
        ValueError: a history is longer than the context.
    """
    # A single history, as that of a request, has all tokens.
    if len(offsets_B1) == 2 and not on_gpu(offsets_B1) and tokens <= context:
        return torch.arange(tokens)

    lengths_B = offsets_B1.diff()
    if on_gpu(lengths_B):  # checked on the device, so that the host does not wait for it
        torch._assert_async((lengths_B <= context).all())
    elif len(lengths_B) and int(lengths_B.max()) > context:
        raise ValueError(f"a history of {int(lengths_B.max())} exceeds the context of {context}")

    starts_N = torch.repeat_interleave(offsets_B1[:-1], lengths_B, output_size=tokens)
    return torch.arange(tokens, device=offsets_B1.device) - starts_N
