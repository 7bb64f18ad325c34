"""What ranks tell one another in a step."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Exchange:
    """What ranks tell one another in a step; single-process by default.

    Attributes:
        gather: this rank's pieces, and who serves which slots -> all slots.
        total: a tensor -> its sum over ranks.
        ranks: number of ranks, whose gradients are averaged.
    """

    gather: Callable[[Tensor, list[Tensor]], Tensor] = lambda piece, _slots: piece
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ranks: int = 1
