"""The encoder's input vectors, read directly from the memory of a single rank.

A lookup of TorchRec is a collective of all ranks. With one rank the rows are in this process, and
any number of threads may read them at the same time.

With content, the vectors are those of the index, also if it has factors of scores beside them.
Otherwise they are the rows of the table.

Shapes: R rows, I items, N items of histories, d width.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_priors.embedding.item_rows import NO_ROW, ItemRows
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.retrieval.group_index import GroupIndex

_ITEMS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class InputVectors:
    """The input vectors of a model whose rows do not change any more.

    Attributes:
        rows_Rd: the rows.
        row_I: int64, the row of each item; None if every item's row is the item's number.
        beside_Id: the vectors of side features, which are added; None without side features.
    """

    rows_Rd: Tensor
    row_I: np.ndarray | None
    beside_Id: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Recommender, index: GroupIndex) -> "InputVectors | None":
        """Returns the vectors of a model; None if they must be looked up.

        That is so with several ranks, on a GPU, and if items come and go (`managed`).

        Args:
            model: the model.
            index: the items of this rank that may be found.
        """
        rows = model.item_rows
        rows_Rd = (index.inputs or index.shard).rows
        is_here = dist.get_world_size() == 1 and rows_Rd.device.type == "cpu"
        if not is_here or not isinstance(rows, ItemRows):
            return None

        row_I = rows.row_I
        if model.content is not None:
            # Every item with a vector may be found, so the index has its vector.
            row_I = np.full(rows.items, NO_ROW, np.int64)
            row_I[index.item_C.numpy()] = index.row_of_candidate
        elif len(rows_Rd) != rows.rows:
            return None

        beside_Id = None
        if model.features is not None:
            parts = torch.arange(rows.items).split(_ITEMS_AT_ONCE)
            beside_Id = torch.cat([model.features(item_N) for item_N in parts])
        return cls(rows_Rd, row_I, beside_Id)

    def of_items(self, items: np.ndarray) -> Tensor:
        """Returns the vectors of some items, which must have rows: [N, d]."""
        row_N = torch.from_numpy(items if self.row_I is None else self.row_I[items])
        token_Nd = self.rows_Rd.index_select(0, row_N)
        if self.beside_Id is None:
            return token_Nd
        return token_Nd + self.beside_Id.index_select(0, torch.from_numpy(items))
