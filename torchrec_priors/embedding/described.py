"""The content of a step's items, which a trained item LLM makes.

Each rank reads the distinct items of its windows and of the negatives that it serves, once. The
vectors are shared by histories, targets and negatives. The ranks gather those of the negatives.

Shapes: X items of the extended sequences, r negatives that this rank serves, U distinct items of
both, n negatives of all ranks, c width of content.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.content import ItemContent
from torchrec_priors.ranks.exchange import Exchange


@dataclass(frozen=True)
class Described:
    """The content of a step's items, detached from the item LLM as leaves.

    Gradients accumulate in the leaves until `backward` is called.

    Attributes:
        place_X: the number of each item among the distinct items.
        own_Uc: the content of the distinct items (a leaf).
        negative_nc: the content of all ranks' negatives (a leaf).
        roots: the vectors from which the leaves were detached.
    """

    place_X: Tensor
    own_Uc: Tensor
    negative_nc: Tensor
    roots: list[Tensor]

    def content(self) -> Tensor:
        """Returns the content of the items of the extended sequences, then of the negatives."""
        return torch.cat([self.own_Uc[self.place_X], self.negative_nc])

    def backward(self) -> None:
        """Passes the accumulated gradients to the item LLM. Every rank must call it."""
        leaves = [self.own_Uc, self.negative_nc]
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        torch.autograd.backward(self.roots, gradients)


def describe_step(content: ItemContent, batch: Batch, exchange: Exchange) -> Described:
    """Lets the item LLM read the items of a step. Every rank must call it.

    Args:
        content: the content of items.
        batch: this rank's part of the batch.
        exchange: the functions by which ranks exchange negatives.
    """
    items = len(batch.item_X)
    # The ids of this rank's negatives follow those of its items.
    negative_r = content.items_of(batch.ids.values()[items:])
    both = torch.cat([batch.item_X, negative_r])
    distinct_U, place = both.unique(return_inverse=True)

    vector_Uc = content.read(distinct_U)
    roots = [vector_Uc, exchange.gather(vector_Uc[place[items:]], batch.slots.slots_W)]
    own_Uc, negative_nc = (root.detach().requires_grad_() for root in roots)
    return Described(place[:items], own_Uc, negative_nc, roots)
