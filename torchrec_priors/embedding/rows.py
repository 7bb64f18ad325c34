"""What the rest of the project knows of the rows that items have in the table.

`ItemRows` is a map that stays as it is; `ManagedRows` changes when items are admitted and evicted.

Shapes: I items of the data set, R rows of the table, X items of extended sequences.
"""

from typing import Protocol

import numpy as np
from torch import Tensor

from torchrec_priors.embedding.item_rows import Held


class Rows(Protocol):
    """A map of items to rows of the table.

    Attributes:
        items: I.
        rows: R.
        an_item: an item that has a row, for lookups whose result nobody uses.
        has_row_I: bool, items that have a row, also a shared one; None if all have.
        own_row_I: bool, items with a row of their own; None if all have.
        recommendable_I: bool, items that may be recommended; None if all may.
    """

    items: int
    rows: int
    own_row_I: np.ndarray | None
    recommendable_I: np.ndarray | None

    @property
    def an_item(self) -> int: ...

    @property
    def has_row_I(self) -> np.ndarray | None: ...

    def to_ids(self, item_N: np.ndarray) -> np.ndarray:
        """The ids that the table is looked up by."""
        ...

    def retrieved(self, first: int, last: int) -> Held:
        """Items that may be recommended and have one of the rows [first, last)."""
        ...

    def trained(self, row_X: Tensor) -> Tensor | None:
        """bool [X]: rows that belong to one item, so that targets there are learned; None for
        all."""
        ...
