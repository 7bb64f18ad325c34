"""Pieces of a large tensor, in the CPU's memory, for `torch.distributed.checkpoint`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.distributed.shards_wrapper import LocalShardsWrapper


class Pieces(LocalShardsWrapper):
    """What a rank holds of a tensor; at least one piece if it is to be loaded.

    TorchRec's own wrapper knows the offsets of the pieces, but takes the size of the whole tensor
    from a `DTensor` around it. That would move the pieces to the device of its mesh.

    Attributes:
        whole: the size of the whole tensor.
    """

    whole: torch.Size

    def __new__(
        cls, pieces: Sequence[Tensor], offsets: Sequence[Sequence[int]], size: Sequence[int]
    ) -> "Pieces":
        """
        Args:
            pieces: plain tensors.
            offsets: where each piece begins in the whole tensor, in every dimension.
            size: the size of the whole tensor.
        """
        wrapper: Pieces = super().__new__(cls, list(pieces), [tuple(offset) for offset in offsets])
        wrapper.whole = torch.Size(size)
        return wrapper

    def size(self, *dimension: int) -> torch.Size | int:
        """Returns the size of the whole tensor, or of one of its dimensions."""
        # `torch.distributed.checkpoint` compares it with the size that was saved.
        return self.whole[dimension[0]] if dimension else self.whole
