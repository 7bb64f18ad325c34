"""Content in the vectors of items: vector = row of the table + projection of content.

An item may have both parts, or only one. Content is a vector that is not trained
(`prepared/content.py`), or what the item LLM makes of the item's text (`items.encoder`). Every rank
holds the content of all items, so no rank asks another one for it. In training, an item LLM that is
trained makes the content of a step's items instead (`described.py`).

In training, `id_dropout` leaves out the rows of some items, so that the projection learns to
describe items alone. Whether a row is left out depends only on the seed, the step and the item. So
an item has one vector in a step, in histories, as a target and as a negative, on every rank.

If content is mapped (`mapped_items.py`), the scores of items without rows do not come from the
projection. Then candidates also have factors of scores; histories still have vectors.

Shapes: I items, M items with content, R rows of the table, N items that are looked up, C
candidates, U distinct items, c width of content, d width of the model, f width of factors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.embedding.item_rows import Held, ItemRows
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.embedding.mapped_items import MappedItems, parts
from torchrec_priors.ops.keyed_dropout import hashed_mask, mix

_STREAM = 0x636F6E74656E74  # distinguishes this dropout from other uses of the seed


class Reader(Protocol):
    """A module that makes the content of items, as the item LLM does.

    Attributes:
        width: c.
        is_trained: whether its parameters are trained.
    """

    width: int
    is_trained: bool

    def __call__(self, place_U: Tensor) -> Tensor:
        """Returns the content of some items, [U, c], of length 1.

        Args:
            place_U: the number of each item among the M items with content.
        """
        ...


@dataclass(frozen=True)
class Candidates:
    """The items that a rank may recommend.

    Attributes:
        held: the items, each with its place in `vectors` and `factors`.
        vectors: their vectors.
        factors: the factors of their scores; None if they are those of the vectors.
    """

    held: Held
    vectors: Shard
    factors: Shard | None


class ItemContent(nn.Module):
    """The content of all items, and its projection to the width of the model.

    Attributes:
        rows: the map from items to rows.
        mapped: gives items without rows factors; None if content is not mapped.
        reader: makes the content; None if it is given.
        projection: the projection; of an item LLM that is trained and has the width of the model,
            the content itself.
    """

    def __init__(
        self,
        item_M: np.ndarray,
        vector_Mc: np.ndarray | None,
        rows: ItemRows,
        dim: int,
        device: torch.device,
        *,
        std: float,
        id_dropout: float,
        seed: int,
        mapped: MappedItems | None = None,
        reader: Reader | None = None,
    ) -> None:
        """
        Args:
            item_M: row ids of the items with content, ascending.
            vector_Mc: the content, which is divided by its lengths; None if `reader` makes it.
            rows: the map from items to rows.
            dim: d.
            device: where the content is held.
            std: standard deviation of the projection's initial weights. As content has length 1, it
                is also that of the projected content.
            id_dropout: the probability that the row of an item with content is left out in a step
                of training.
            seed: the seed of the run.
            mapped: gives items without rows factors; None if content is not mapped.
            reader: makes the content; call `describe` before its first use.
        """
        super().__init__()
        self.rows = rows
        self.id_dropout = id_dropout
        self.seed = seed
        self.mapped = mapped
        self.reader = reader
        assert (vector_Mc is None) != (reader is None)

        width = dim
        if vector_Mc is not None:
            width = vector_Mc.shape[1]
        elif reader is not None:
            width = reader.width
        self.projection: nn.Module = nn.Identity()
        if width != dim or not self.is_trained:
            projection = nn.Linear(width, dim)
            nn.init.normal_(projection.weight, std=std)
            nn.init.zeros_(projection.bias)
            self.projection = projection

        # These are no buffers, because DDP would send buffers to all ranks.
        self._vector_Mc: Tensor | None = None
        if vector_Mc is not None:
            of_length_1 = torch.nn.functional.normalize(torch.from_numpy(vector_Mc), dim=1)
            self._vector_Mc = of_length_1.to(device)
        place_I = torch.full((rows.items,), -1)
        place_I[torch.from_numpy(item_M)] = torch.arange(len(item_M))
        self._place_I = place_I.to(device)
        self._item_R = None
        if rows.row_I is not None:
            self._item_R = torch.from_numpy(rows.item_of_row).to(device)

    @property
    def is_trained(self) -> bool:
        """Whether the content itself is trained, by an item LLM."""
        return self.reader is not None and self.reader.is_trained

    def describe(self, vector_Mc: Tensor) -> None:
        """Sets the content of all items to what the item LLM makes of them now.

        Args:
            vector_Mc: the content, of length 1, on the device.
        """
        self._vector_Mc = vector_Mc

    def read(self, item_U: Tensor) -> Tensor:
        """Returns what the item LLM makes of some items now, [U, c]; zeros for items without text.

        Gradients flow to the item LLM. Every rank must call it.
        """
        assert self.reader is not None
        place_U = self._place_I[item_U]
        described_U = place_U >= 0
        made = self.reader(place_U[described_U])
        vector_Uc = made.new_zeros(len(item_U), made.shape[1])
        return vector_Uc.index_put((described_U.nonzero()[:, 0],), made)

    def items_of(self, row_N: Tensor) -> Tensor:
        """Returns the items in rows that belong to one item each, [N]."""
        return row_N if self._item_R is None else self._item_R[row_N]

    def forward(
        self,
        id_Nd: Tensor,
        item_N: Tensor,
        step: int | None = None,
        content_Nc: Tensor | None = None,
    ) -> Tensor:
        """Returns the vectors of items, [N, d].

        Args:
            id_Nd: the rows of the items in the table; zeros for items without a row.
            item_N: the row ids of the items in the data set.
            step: the index of the global batch in training; None without dropout.
            content_Nc: the content of the items, from `read`; by default the content of all items
                that is held.
        """
        place_N = self._place_I[item_N]
        has_content_N1 = (place_N >= 0)[:, None]
        if content_Nc is None:
            assert self._vector_Mc is not None, "call `describe` first"
            content_Nc = self._vector_Mc[place_N.clamp(min=0)]
        projected_Nd = torch.where(has_content_N1, self.projection(content_Nc), 0.0)

        if step is not None and self.id_dropout:
            salt = mix(_STREAM, self.seed, step)
            kept_N1 = hashed_mask(item_N, salt, 1, self.id_dropout)
            # An item without content would have no vector at all.
            id_Nd = torch.where(kept_N1 | ~has_content_N1, id_Nd, 0.0)
        return id_Nd + projected_Nd

    def with_mapped(self, factor_Nf: Tensor, item_N: Tensor) -> Tensor:
        """Returns the factors of items, [N, f], with mapped ones for items without a row.

        Args:
            factor_Nf: the factors of the items' vectors.
            item_N: the row ids of the items in the data set.
        """
        if self.mapped is None or self.mapped.map is None:
            return factor_Nf
        assert self._vector_Mc is not None, "a map is fitted after `describe`"
        factor_Nf = factor_Nf.clone()
        self.mapped.write(self._vector_Mc, self._place_I, item_N, factor_Nf)
        return factor_Nf

    @torch.no_grad()
    def candidates(
        self,
        block: Shard,
        rank: int,
        ranks: int,
        as_factors: Callable[[Tensor], Tensor],
        total: Callable[[Tensor], Tensor],
    ) -> Candidates:
        """Computes the vectors of the items that this rank may recommend, and fits the map.

        Every rank must call it.

        Args:
            block: the rows of the table that this rank is responsible for.
            rank, ranks: this rank, and the number of ranks, which share the items that have no row.
            as_factors: turns vectors into factors of scores.
            total: returns the sum of a tensor over all ranks.
        """
        rows = self.rows
        first, last = (
            rows.rows + rows.content_rows * number // ranks for number in (rank, rank + 1)
        )
        held = rows.retrieved(block.first, block.last).and_also(rows.retrieved(first, last))

        vector_Cd = block.rows.new_zeros(len(held.item_C), block.rows.shape[1])
        in_table_C = held.row_C < rows.rows
        places = torch.from_numpy(np.flatnonzero(in_table_C)).to(vector_Cd.device)
        of_block = torch.from_numpy(held.row_C[in_table_C] - block.first).to(vector_Cd.device)
        vector_Cd[places] = block.rows[of_block]

        item_C = torch.from_numpy(held.item_C).to(vector_Cd.device)
        for part in parts(len(item_C)):
            vector_Cd[part] = self(vector_Cd[part], item_C[part])

        factors = None
        if self.mapped is not None and self.mapped.may_fit:
            width = as_factors(vector_Cd[:0]).shape[1]
            factor_Cf = vector_Cd.new_empty(len(item_C), width)
            for part in parts(len(item_C)):
                factor_Cf[part] = as_factors(vector_Cd[part])
            self._map(self.mapped, item_C, factor_Cf, total, leads=rank == 0)
            factors = Shard(factor_Cf, 0)
        held = Held(held.item_C, np.arange(len(held.item_C)))
        return Candidates(held, Shard(vector_Cd, 0), factors)

    def _map(
        self,
        mapped: MappedItems,
        item_C: Tensor,
        factor_Cf: Tensor,
        total: Callable[[Tensor], Tensor],
        *,
        leads: bool,
    ) -> None:
        """Fits the map to candidates, and writes its factors of items without a row."""
        content_Mc = self._vector_Mc
        assert content_Mc is not None, "call `describe` first"
        mapped.fit(content_Mc, self._place_I, item_C, factor_Cf, total, leads=leads)
        mapped.write(content_Mc, self._place_I, item_C, factor_Cf)
