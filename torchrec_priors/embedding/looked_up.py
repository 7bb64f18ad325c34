"""The vectors that a step reads from the tables, before it computes anything.

Shapes: X items of the extended sequences, N items of the contexts, n negatives, d width. In
`with_content`, N counts the items of the extended sequences and the negatives.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchrec_priors.embedding.content import ItemContent
from torchrec_priors.embedding.described import Described
from torchrec_priors.ops.in_group_sets import NegativeSets


@dataclass(frozen=True)
class LookedUp:
    """The vectors that a step reads from the tables, detached from them as leaves.

    Gradients accumulate in the leaves until `backward` is called.

    Attributes:
        item_X: row ids of the extended sequences' items in the data set.
        row_X: rows of the table that were read for these items. A row is never a negative of the
            items that are in it.
        event_X: event codes of the items; None if they were not read.
        vector_Xd: vectors of the items (a leaf).
        beside_Nd: vectors that side features add to the contexts' items, part after part (a leaf);
            None without side features.
        negatives: the step's negatives from all ranks. Their vectors are as in the table (a leaf).
        roots: for each leaf, the vectors from which it was detached.
        step: index of the global batch.
        described: what a trained item LLM has made of the items; None without one.
    """

    item_X: Tensor
    row_X: Tensor
    event_X: Tensor | None
    vector_Xd: Tensor
    beside_Nd: Tensor | None
    negatives: NegativeSets
    roots: list[Tensor]
    step: int
    described: Described | None = None

    def with_content(self, content: ItemContent, *, trains: bool) -> "LookedUp":
        """Returns the same with content added to the vectors of items and negatives.

        Call it in the model's `forward`, where DDP averages the gradients of the projection over
        ranks.

        Args:
            content: the content of items.
            trains: whether the rows of some items are left out (`embedding.id_dropout`).
        """
        negatives = self.negatives
        items = len(self.item_X)
        id_Nd = torch.cat([self.vector_Xd, negatives.vectors_nd])
        item_N = torch.cat([self.item_X, content.items_of(negatives.ids_n)])

        step = self.step if trains else None
        content_Nc = None if self.described is None else self.described.content()
        vector_Nd = content(id_Nd, item_N, step, content_Nc)
        return replace(
            self,
            vector_Xd=vector_Nd[:items],
            negatives=replace(negatives, vectors_nd=vector_Nd[items:]),
        )

    def backward(self) -> None:
        """Passes the accumulated gradients to the tables, where the fused optimizer uses them."""
        torch.autograd.backward(self.roots, self.gradients())

    def gradients(self) -> list[Tensor]:
        """Returns the gradient of each entry of `roots`; zeros if nothing used its leaf."""
        # The leaves are in the order of `roots`.
        leaves = [self.vector_Xd, self.negatives.vectors_nd]
        if self.beside_Nd is not None:
            leaves.append(self.beside_Nd)
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
