"""The interface of maps from items to rows of the table.

`ItemRows` does not change. `ManagedRows` changes when items are admitted and evicted.

Shapes: I items of the data set, R rows of the table, X items of extended sequences.
"""

from typing import Protocol

import numpy as np
from torch import Tensor

from torchrec_priors.embedding.item_rows import Held


class Rows(Protocol):
    """A map from items to rows of the table.

    Attributes:
        items: I.
        rows: R.
        an_item: an item that has a row, for lookups that only need some valid id.
        has_row_I: bool, whether an item has its own row, a shared one, or content; None if all
            have.
        own_row_I: bool, whether an item has its own row; None if all have.
        recommendable_I: bool, whether an item may be recommended; None if all may.
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
        """Returns the ids to look up in the table."""
        ...

    def retrieved(self, first: int, last: int) -> Held:
        """Returns the items in rows [first, last) that may be recommended."""
        ...

    def trained(self, row_X: Tensor) -> Tensor | None:
        """Returns bool [X], whether the heads learn targets in each row; None if in all rows."""
        ...
