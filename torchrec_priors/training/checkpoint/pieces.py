"""Presents a rank's pieces of a large tensor to `torch.distributed.checkpoint`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.distributed.shards_wrapper import LocalShardsWrapper


class Pieces(LocalShardsWrapper):
    """A rank's pieces of a tensor, in the CPU's memory.

    A checkpoint can only be loaded into `Pieces` that contain at least one piece.

    TorchRec's own wrapper has the offsets of the pieces, but it takes the size of the whole tensor
    from a `DTensor` around it. The `DTensor` would move the pieces to the device of its mesh. So
    this class stores the size itself.

    Attributes:
        whole: the size of the whole tensor.
    """

    whole: torch.Size

    def __new__(
        cls, pieces: Sequence[Tensor], offsets: Sequence[Sequence[int]], size: Sequence[int]
    ) -> "Pieces":
        """
        Args:
            pieces: the pieces, as plain tensors.
            offsets: for each piece, the indices in the whole tensor at which the piece begins.
            size: the size of the whole tensor.
        """
        wrapper: Pieces = super().__new__(cls, list(pieces), [tuple(offset) for offset in offsets])
        wrapper.whole = torch.Size(size)
        return wrapper

    def size(self, *dimension: int) -> torch.Size | int:
        """Returns the size of the whole tensor, or of one of its dimensions."""
        # `torch.distributed.checkpoint` compares this size with the size that was saved.
        return self.whole[dimension[0]] if dimension else self.whole
