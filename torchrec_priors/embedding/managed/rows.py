"""The map from items to the rows of a managed table, which changes during training.

Shapes: I items of the data set, R rows of the table, C admitted items of this rank, X items of
extended sequences.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.embedding.item_rows import Held
from torchrec_priors.embedding.managed.blocks import Blocks
from torchrec_priors.embedding.managed.ids import spread
from torchrec_priors.settings.embedding import UnseenConfig


class ManagedRows:
    """A map from items to their present rows. In `ItemRows`, the rows of items do not change.

    Attributes:
        items: I.
        rows: R.
        has_row_I: None, because all items have a row: items that are not admitted share the last
            row of their block.
        own_row_I: bool, whether an item was admitted, on any rank, at the last `refresh`; None
            before the first one.
        recommendable_I: the same array, because only admitted items are recommended.
    """

    has_row_I = None
    an_item = 0

    def __init__(self, config: UnseenConfig, items: int) -> None:
        self.items = items
        self.rows = config.rows
        self.size = config.rows // config.blocks
        self.own_row_I: np.ndarray | None = None
        self.recommendable_I: np.ndarray | None = None
        self._held = Held.each_its_own(0, 0)

    def refresh(self, blocks: Blocks, total: Callable[[Tensor], Tensor]) -> None:
        """Updates which items are admitted. Every rank must call it.

        Args:
            blocks: this rank's blocks.
            total: function that sums a tensor over ranks.
        """
        # The table may hold items that this data set lacks.
        held = blocks.held()
        in_data_C = held.item_C < self.items
        self._held = Held(held.item_C[in_data_C], held.row_C[in_data_C])

        # The sum over ranks is 0 or 1, because an item is admitted on at most one rank.
        admitted_I = torch.zeros(self.items, dtype=torch.uint8)
        admitted_I[torch.from_numpy(self._held.item_C)] = 1
        self.own_row_I = self.recommendable_I = total(admitted_I).numpy().astype(bool)

    def to_ids(self, item_N: np.ndarray) -> np.ndarray:
        """Returns the ids to look up in the table."""
        return spread(item_N)

    def retrieved(self, first: int, last: int) -> Held:
        """Returns the admitted items of this rank. [first, last) must be the rows of this rank."""
        return self._held

    def trained(self, row_X: Tensor) -> Tensor:
        """Returns bool [X], whether a row belongs to one item.

        Targets in shared rows are not learned.
        """
        return row_X % self.size != self.size - 1
