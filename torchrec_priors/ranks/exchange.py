"""What ranks exchange in a step."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Exchange:
    """Functions by which ranks exchange tensors in a step; of a single process by default.

    Attributes:
        gather: function of this rank's pieces and the slots that each rank serves; returns all
            slots.
        total: function that sums a tensor over ranks.
        ranks: number of ranks, over which gradients are averaged.
    """

    gather: Callable[[Tensor, list[Tensor]], Tensor] = lambda piece, _slots: piece
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ranks: int = 1
