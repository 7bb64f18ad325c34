"""What a step reads from the tables before anything is computed.

Shapes: X items of the extended sequences, N of the contexts, n negatives, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.in_group_sets import NegativeSets


@dataclass(frozen=True)
class LookedUp:
    """What a step reads from the tables, detached from them: gradients accumulate in the leaves
    until `backward`.

    Attributes:
        item_X: row ids of the extended sequences' items in the data set.
        row_X: rows of the table that were read for them: an item's negatives are all rows but its
            own.
        event_X: event codes of the items; None if they were not read.
        vector_Xd: vectors of the items.
        beside_Nd: vectors that side features add to the contexts' items, part after part; None
            without side features.
        negatives: the step's negatives, from all ranks, with their vectors as the table has them.
        roots: the same vectors as they came from the tables.
        step: number of the global batch.
    """

    item_X: Tensor
    row_X: Tensor
    event_X: Tensor | None
    vector_Xd: Tensor
    beside_Nd: Tensor | None
    negatives: NegativeSets
    roots: list[Tensor]
    step: int

    def backward(self) -> None:
        """Passes the accumulated gradients to the tables; the fused optimizer then changes their
        rows."""
        torch.autograd.backward(self.roots, self.gradients())

    def gradients(self) -> list[Tensor]:
        """The accumulated gradients, one for each of `roots`; zeros if nothing used a leaf."""
        # In the order of `roots`.
        leaves = [self.vector_Xd, self.negatives.vectors_nd]
        if self.beside_Nd is not None:
            leaves.append(self.beside_Nd)
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
