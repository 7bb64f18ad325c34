"""The functions by which ranks exchange tensors in a training step."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Exchange:
    """Functions by which ranks exchange tensors. The defaults are those of a single process.

    Attributes:
        gather: a function that collects pieces of all ranks on all ranks; see `gather_slots`. Its
            arguments are this rank's piece and, for each rank, the slots that it serves.
        total: a function that sums a tensor over the ranks.
        ranks: the number of ranks, over which gradients are averaged.
    """

    gather: Callable[[Tensor, list[Tensor]], Tensor] = lambda piece, _slots: piece
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ranks: int = 1
