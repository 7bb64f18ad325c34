"""What a step reads of the tables before anything is computed, and what ranks tell one another for it.

Shapes: X items of the extended sequences, N of the contexts, n negatives, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.in_group_sets import NegativeSets


@dataclass(frozen=True)
class LookedUp:
    """What a step reads from the table, cut off from it: gradients gather in the leaves until `backward`.

    Attributes:
        item_X: row ids of the extended sequences' items in the data set.
        row_X: rows of the table that were read for them: an item's negatives are the rows that are not its own.
        event_X: their event codes, where they were read.
        vector_Xd: their vectors.
        beside_Nd: what side features add to the contexts' items, part after part; None without any.
        negatives: the step's negatives, from all ranks; their vectors as the table has them.
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
        """Hands the gathered gradients to the tables, whose rows the fused optimizer then changes."""
        torch.autograd.backward(self.roots, self.gradients())

    def gradients(self) -> list[Tensor]:
        """What gathered, for each of `roots`."""
        leaves = [self.vector_Xd, self.negatives.vectors_nd]
        leaves += [] if self.beside_Nd is None else [self.beside_Nd]
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
