"""Lists the targets of tokens: the items that follow a token in its extended sequence.

Shapes: N tokens, T offsets, M targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NextItems:
    """The targets of some tokens, by token, then by offset.

    Attributes:
        exists_NT: bool, whether a token has a target at an offset (from 1).
        token_M: the token of each target.
        offset_M: how many items after the token each target is; the next item has offset 1.
        source_M: index of each target in the extended sequences.
    """

    exists_NT: Tensor
    token_M: Tensor
    offset_M: Tensor
    source_M: Tensor


def next_items(context_N: Tensor, end_N: Tensor, horizon: int) -> NextItems:
    """Lists the targets of tokens.

    Args:
        context_N: index of each token in the extended sequences.
        end_N: index at which the extended sequence of each token ends.
        horizon: the largest offset of a target, T.

    Example:
        >>> found = next_items(torch.tensor([0, 1]), torch.tensor([3, 3]), horizon=2)
        >>> [part.tolist() for part in (found.token_M, found.offset_M, found.source_M)]
        [[0, 0, 1], [1, 2, 1], [1, 2, 2]]
    """
    source_NT = context_N[:, None] + torch.arange(1, horizon + 1, device=context_N.device)
    exists_NT = source_NT < end_N[:, None]
    token_M, column_M = torch.nonzero(exists_NT, as_tuple=True)
    return NextItems(exists_NT, token_M, column_M + 1, source_NT[token_M, column_M])
