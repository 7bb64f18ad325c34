"""Which items a request may be answered with: an allow list and a deny list, as bits over row ids.

A list is turned into bits once, and may then be used by any number of requests. To set a bit costs
nothing per item of the catalogue, except for the memory: a million items take 125 kB.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_WORD = 64  # bits of a word


def bits_of(rows: np.ndarray, items: int) -> np.ndarray:
    """Returns a bit for each row id, 64 in a word: uint64 [ceil(items / 64)].

    Args:
        rows: the row ids whose bits are set, in any order.
        items: the number of items of the catalogue.

    >>> bits_of(np.array([0, 65, 3]), 100).tolist()
    [9, 2]
    """
    words = np.zeros(-(-items // _WORD), np.uint64)
    bit = np.uint64(1) << (rows % _WORD).astype(np.uint64)
    np.bitwise_or.at(words, rows // _WORD, bit)
    return words


def has_bits(words: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns bool, whether the bit of each row id is set."""
    shifted = words[rows // _WORD] >> (rows % _WORD).astype(np.uint64)
    is_set: np.ndarray = (shifted & np.uint64(1)).astype(bool)
    return is_set


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """The items that may be found.

    Attributes:
        allow: the bits of the only items that may be found; None for all items.
        deny: the bits of items that must not be found; None for none.
    """

    allow: np.ndarray | None = None
    deny: np.ndarray | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every item may be found."""
        return self.allow is None and self.deny is None

    def allows(self, rows: np.ndarray) -> np.ndarray:
        """Returns bool, whether each of the items may be found."""
        allowed = np.ones(len(rows), bool)
        if self.allow is not None:
            allowed &= has_bits(self.allow, rows)
        if self.deny is not None:
            allowed &= ~has_bits(self.deny, rows)
        return allowed

    def within(self, allow: np.ndarray) -> "ItemFilter":
        """Returns the same filter, but only for items whose bits are set in `allow`, too."""
        return ItemFilter(allow if self.allow is None else self.allow & allow, self.deny)


EVERYTHING = ItemFilter()
Filters = Sequence[ItemFilter]  # one for each user, or a single one for all users


def of_users(filters: Filters | None, users: int) -> list[ItemFilter]:
    """Returns a filter for each user. None stands for no filter."""
    if filters is None:
        return [EVERYTHING] * users
    if len(filters) == 1:
        return list(filters) * users
    assert len(filters) == users
    return list(filters)


def distinct(filters: Iterable[ItemFilter]) -> dict[int, list[int]]:
    """Returns the users of each distinct filter, by the identity of the filter."""
    users: dict[int, list[int]] = {}
    for user, item_filter in enumerate(filters):
        users.setdefault(id(item_filter), []).append(user)
    return users
