"""Some pieces of a large tensor, in the CPU's memory, as `torch.distributed.checkpoint` saves and loads them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.distributed.shards_wrapper import LocalShardsWrapper


class Pieces(LocalShardsWrapper):
    """What a rank holds of a tensor; at least one piece where it is to be loaded.

    TorchRec's own wrapper knows the places of the pieces, and relies on a `DTensor` around it for the size of the
    whole, which would move them to the device of its mesh.
    """

    def __new__(
        cls, pieces: Sequence[Tensor], offsets: Sequence[Sequence[int]], size: Sequence[int]
    ) -> "Pieces":
        """
        Args:
            pieces: plain tensors.
            offsets: where in the whole each begins, in every dimension.
            size: of the whole.
        """
        made: Pieces = super().__new__(cls, list(pieces), [tuple(offset) for offset in offsets])
        made.whole = torch.Size(size)
        return made

    whole: torch.Size

    def size(self, *dimension: int) -> torch.Size | int:
        """Of the whole."""
        return self.whole[dimension[0]] if dimension else self.whole
