"""The encoder's input vectors, read directly from the table of a single rank.

A lookup of TorchRec is a collective of all ranks. With one rank the rows are in this process, and
any number of threads may read them at the same time.

Shapes: R rows of the table, I items, N items of histories, d width.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.model import Recommender

_ITEMS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class InputVectors:
    """The input vectors of a model whose rows do not change any more.

    Attributes:
        rows_Rd: the rows of the item table.
        item_rows: the row of each item.
        beside_Id: the vectors of side features, which are added; None without side features.
    """

    rows_Rd: Tensor
    item_rows: ItemRows
    beside_Id: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Recommender, shard: Shard) -> "InputVectors | None":
        """Returns the vectors of a model; None if they must be looked up.

        That is so with several ranks, on a GPU, and if items come and go (`managed`).

        Args:
            model: the model.
            shard: the rows of this rank.
        """
        rows = model.item_rows
        is_here = dist.get_world_size() == 1 and shard.rows.device.type == "cpu"
        if not is_here or not isinstance(rows, ItemRows) or len(shard.rows) != rows.rows:
            return None

        beside_Id = None
        if model.features is not None:
            parts = torch.arange(rows.items).split(_ITEMS_AT_ONCE)
            beside_Id = torch.cat([model.features(item_N) for item_N in parts])
        return cls(shard.rows, rows, beside_Id)

    def of_items(self, items: np.ndarray) -> Tensor:
        """Returns the vectors of some items, which must have rows: [N, d]."""
        row_N = torch.from_numpy(self.item_rows.to_ids(items))
        token_Nd = self.rows_Rd.index_select(0, row_N)
        if self.beside_Id is None:
            return token_Nd
        return token_Nd + self.beside_Id.index_select(0, torch.from_numpy(items))
