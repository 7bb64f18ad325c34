"""Maps items to rows of the table: an item has its own row, a shared row, or none.

An item that only has content (`content.py`) has the number of a row after those of the table, so
that it can be told from other items, but there are no values in the table for it.

Items with their own rows keep their order, and shared rows are between them, at equal distances.
The order of items in a data set spreads items of every popularity evenly, so every row-wise shard
gets the same traffic.

Shapes: I items, R rows of the table, V rows of items that only have content, H shared rows, C items
with a row in some range.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from torchrec_priors.common.splitmix import of_numbers
from torchrec_priors.errors import UserError
from torchrec_priors.settings.embedding import UnseenConfig

NO_ROW = -1


@dataclass(frozen=True)
class Held:
    """Items, and the rows that they have on a rank.

    Attributes:
        item_C: row ids of the items in the data set, int64, ascending.
        row_C: their rows in the table, int64.
    """

    item_C: np.ndarray
    row_C: np.ndarray

    @classmethod
    def each_its_own(cls, first: int, last: int) -> "Held":
        """Returns items [first, last), each in the row with the item's number."""
        numbers = np.arange(first, last)
        return cls(numbers, numbers)

    def and_also(self, other: "Held") -> "Held":
        """Returns the items of both, which must be different."""
        item_C = np.concatenate([self.item_C, other.item_C])
        row_C = np.concatenate([self.row_C, other.row_C])
        order = np.argsort(item_C)
        return Held(item_C[order], row_C[order])


class ItemRows:
    """A map from items to rows that does not change.

    Attributes:
        items: I.
        rows: R.
        row_I: int64, the row of every item of the data set, `NO_ROW` if it has none; None if every
            item's row is the item's number.
        own_row_I: bool, whether an item has a row of its own; None if all have.
        recommendable_I: bool, whether an item may be recommended; None if all may.
        shared_H: rows that several items may share, ascending.
        content_rows: V.
    """

    def __init__(
        self,
        items: int,
        rows: int,
        row_I: np.ndarray | None = None,
        own_row_I: np.ndarray | None = None,
        recommendable_I: np.ndarray | None = None,
        shared_H: np.ndarray | None = None,
        content_rows: int = 0,
    ) -> None:
        self.items = items
        self.rows = rows
        self.content_rows = content_rows
        self.shared_H = np.zeros(0, np.int64) if shared_H is None else shared_H
        self.row_I = row_I
        self.own_row_I = own_row_I
        self.recommendable_I = recommendable_I

    @classmethod
    def of(
        cls,
        config: UnseenConfig,
        seen_I: np.ndarray | None,
        items: int,
        described_I: np.ndarray | None = None,
    ) -> "ItemRows":
        """Returns the map for a configuration.

        Args:
            config: the section `embedding` of the configuration.
            seen_I: bool, whether training saw an item often enough, for the items that the data set
                had when the map was first built; None if it saw all of them often enough.
            items: number of items now; training has not seen the later ones.
            described_I: bool, whether an item has content; None if none has. Only
                `embedding.unseen = "content"` reads it.

        Raises:
            UserError: no item was seen often enough.
        """
        if config.unseen == "content":
            assert seen_I is not None
            own_I = np.concatenate([seen_I, np.zeros(items - len(seen_I), bool)])
            return cls._with_content(own_I & config.ids, described_I)

        # Only `shared` and `hashed` have rows that several items share.
        shared = {"shared": 1, "hashed": config.hashed_rows}.get(config.unseen, 0)
        if not shared and (seen_I is None or (len(seen_I) == items and seen_I.all())):
            return cls(items, items)

        # Items that came after the map was first built count as unseen.
        assert seen_I is not None
        seen_I = np.concatenate([seen_I, np.zeros(items - len(seen_I), bool)])
        own_rows = int(seen_I.sum())
        if not own_rows:
            raise UserError(
                f"embedding.min_frequency = {config.min_frequency}: no item has this many training "
                "interactions: lower the value"
            )

        # Shared rows are at equal distances, so that all row-wise shards have about as many.
        rows = own_rows + shared
        shared_H = (2 * np.arange(shared) + 1) * rows // (2 * max(shared, 1))

        row_I = np.full(items, NO_ROW, np.int64)
        row_I[seen_I] = np.delete(np.arange(rows), shared_H)
        if shared:
            unseen = np.flatnonzero(~seen_I)
            row_I[unseen] = shared_H[hashes(unseen, shared)]

        # A hashed row has few enough items to recommend them by its vector; the only row of
        # `shared` has too many.
        recommendable_I = row_I >= 0 if config.unseen == "hashed" else seen_I
        return cls(items, rows, row_I, seen_I, recommendable_I, shared_H)

    @classmethod
    def _with_content(cls, own_I: np.ndarray, described_I: np.ndarray | None) -> "ItemRows":
        """Returns a map with rows of the table for some items, and content for others.

        Args:
            own_I: bool, whether an item has a row of its own in the table.
            described_I: bool, whether an item has content; None if none has.
        """
        only_content_I = np.zeros(len(own_I), bool)
        if described_I is not None:
            only_content_I = described_I & ~own_I
        own_rows = int(own_I.sum())
        content_rows = int(only_content_I.sum())
        if not own_rows + content_rows:
            raise UserError(
                "embedding.unseen = 'content': no item has a row or content: lower "
                "embedding.min_frequency, or add content"
            )

        # A table has at least one row, even if no item uses it.
        rows = max(own_rows, 1)
        row_I = np.full(len(own_I), NO_ROW, np.int64)
        row_I[own_I] = np.arange(own_rows)
        row_I[only_content_I] = rows + np.arange(content_rows)
        return cls(len(own_I), rows, row_I, own_I, row_I >= 0, content_rows=content_rows)

    @cached_property
    def has_row_I(self) -> np.ndarray | None:
        """bool, whether an item has its own row, a shared one, or content; None if all have."""
        if self.row_I is None or (self.row_I >= 0).all():
            return None
        has_row_I: np.ndarray = self.row_I >= 0
        return has_row_I

    @cached_property
    def an_item(self) -> int:
        """An item that has a row, for lookups that only need some valid id."""
        return 0 if self.has_row_I is None else int(np.argmax(self.has_row_I))

    @cached_property
    def item_of_row(self) -> np.ndarray:
        """int64 [R + V], the item in each row, if no row is shared."""
        item_R = np.zeros(self.rows + self.content_rows, np.int64)
        if self.row_I is None:
            return np.arange(self.rows)
        item = np.flatnonzero(self.row_I >= 0)
        item_R[self.row_I[item]] = item
        return item_R

    def to_ids(self, item_N: np.ndarray) -> np.ndarray:
        """Returns the ids to look up in the table, for items that have a row."""
        return item_N if self.row_I is None else self.row_I[item_N]

    def trained(self, row_X: Tensor) -> Tensor | None:
        """Returns None: all targets are learned, even targets in rows that several items share."""
        return None

    def held(self, first: int, last: int) -> Held:
        """Returns the items in rows [first, last)."""
        if self.row_I is None:
            return Held.each_its_own(first, last)
        item_C = np.flatnonzero((self.row_I >= first) & (self.row_I < last))
        return Held(item_C, self.row_I[item_C])

    def retrieved(self, first: int, last: int) -> Held:
        """Returns the items in rows [first, last) that may be recommended."""
        held = self.held(first, last)
        if self.recommendable_I is None:
            return held
        recommendable_C = self.recommendable_I[held.item_C]
        return Held(held.item_C[recommendable_C], held.row_C[recommendable_C])

    def per_row(self, value_I: np.ndarray) -> np.ndarray:
        """Returns the sums of integers over the items of each row, int64 [R + V]."""
        if self.row_I is None:
            return value_I

        # `np.add.at` adds all items of a row; with indexing, only the last one would count.
        has_row_I = self.row_I >= 0
        sum_R = np.zeros(self.rows + self.content_rows, np.int64)
        np.add.at(sum_R, self.row_I[has_row_I], value_I[has_row_I])
        return sum_R


def hashes(item: np.ndarray, rows: int) -> np.ndarray:
    """Returns a number in [0, rows) for each row id. It depends on nothing else (splitmix64).

    >>> hashes(np.array([3, 4, 5]), 2).tolist()
    [0, 1, 0]
    """
    hashed: np.ndarray = (of_numbers(item) % np.uint64(rows)).astype(np.int64)
    return hashed
