"""Content in the vectors of items: vector = row of the table + projection of content.

An item may have both parts, or only one. Content (`prepared/content.py`) is not trained. Every rank
holds the content of all items, so no rank asks another one for it; only the projection is trained.

In training, `id_dropout` leaves out the rows of some items, so that the projection learns to
describe items alone. Whether a row is left out depends only on the seed, the step and the item. So
an item has one vector in a step, in histories, as a target and as a negative, on every rank.

Shapes: I items, M items with content, R rows of the table, N items that are looked up, C
candidates, c width of content, d width of the model.
"""

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.embedding.item_rows import Held, ItemRows
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.ops.keyed_dropout import hashed_mask, mix
from torchrec_priors.prepared.content import Content

_STREAM = 0x636F6E74656E74  # distinguishes this dropout from other uses of the seed
_ITEMS_AT_ONCE = 1 << 14


class ItemContent(nn.Module):
    """The content of all items, and its projection to the width of the model.

    Attributes:
        rows: the map from items to rows.
        projection: the only part that is trained.
    """

    def __init__(
        self,
        content: Content,
        rows: ItemRows,
        dim: int,
        device: torch.device,
        *,
        std: float,
        id_dropout: float,
        seed: int,
    ) -> None:
        """
        Args:
            content: the vectors of items. They are divided by their lengths.
            rows: the map from items to rows.
            dim: d.
            device: where the content is held.
            std: standard deviation of the projection's initial weights. As vectors have length 1,
                it is also that of the projected vectors.
            id_dropout: the probability that the row of an item with content is left out in a step
                of training.
            seed: the seed of the run.
        """
        super().__init__()
        self.rows = rows
        self.id_dropout = id_dropout
        self.seed = seed
        self.projection = nn.Linear(content.vector_Mc.shape[1], dim)
        nn.init.normal_(self.projection.weight, std=std)
        nn.init.zeros_(self.projection.bias)

        # These are no buffers, because DDP would send buffers to all ranks.
        vector_Mc = torch.from_numpy(content.vector_Mc)
        self._vector_Mc = torch.nn.functional.normalize(vector_Mc, dim=1).to(device)
        place_I = torch.full((rows.items,), -1)
        place_I[torch.from_numpy(content.item_M)] = torch.arange(len(content.item_M))
        self._place_I = place_I.to(device)
        self._item_R = None
        if rows.row_I is not None:
            self._item_R = torch.from_numpy(rows.item_of_row).to(device)

    def items_of(self, row_N: Tensor) -> Tensor:
        """Returns the items in rows that belong to one item each, [N]."""
        return row_N if self._item_R is None else self._item_R[row_N]

    def forward(self, id_Nd: Tensor, item_N: Tensor, step: int | None = None) -> Tensor:
        """Returns the vectors of items, [N, d].

        Args:
            id_Nd: the rows of the items in the table; zeros for items without a row.
            item_N: the row ids of the items in the data set.
            step: the index of the global batch in training; None without dropout.
        """
        place_N = self._place_I[item_N]
        has_content_N1 = (place_N >= 0)[:, None]
        content_Nc = self._vector_Mc[place_N.clamp(min=0)]
        projected_Nd = torch.where(has_content_N1, self.projection(content_Nc), 0.0)

        if step is not None and self.id_dropout:
            salt = mix(_STREAM, self.seed, step)
            kept_N1 = hashed_mask(item_N, salt, 1, self.id_dropout)
            # An item without content would have no vector at all.
            id_Nd = torch.where(kept_N1 | ~has_content_N1, id_Nd, 0.0)
        return id_Nd + projected_Nd

    @torch.no_grad()
    def candidates(self, block: Shard, rank: int, ranks: int) -> tuple[Held, Shard]:
        """Computes the vectors of the items that this rank may recommend.

        Args:
            block: the rows of the table that this rank is responsible for.
            rank, ranks: this rank, and the number of ranks, which share the items that have no row.

        Returns:
            The items, each with its place among the vectors; and the vectors.
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
        for start in range(0, len(item_C), _ITEMS_AT_ONCE):
            part = slice(start, start + _ITEMS_AT_ONCE)
            vector_Cd[part] = self(vector_Cd[part], item_C[part])
        return Held(held.item_C, np.arange(len(held.item_C))), Shard(vector_Cd, 0)
