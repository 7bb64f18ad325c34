"""Finds the ids that begin with some characters, among millions."""

from bisect import bisect_left

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_AFTER_ALL = b"\xff"  # no byte of UTF-8 is greater


class SortedIds:
    """The order of a list of ids. It takes 4 bytes for each id; the ids themselves are shared."""

    def __init__(self, texts: pa.Array) -> None:
        """
        Args:
            texts: the ids as texts, all different, without nulls.
        """
        self._texts = texts
        self._order = pc.array_sort_indices(texts).to_numpy().astype(np.int32)

    @property
    def nbytes(self) -> int:
        """How many bytes the order takes."""
        return self._order.nbytes

    def beginning(self, start: str, limit: int) -> list[int]:
        """Returns the places of ids that begin with some characters.

        Args:
            start: the characters.
            limit: how many ids are returned at most. They are the first ones in the order of their
                bytes, so the id that has no further characters comes first.
        """
        wanted = start.encode()
        first = bisect_left(range(len(self._order)), wanted, key=self._bytes)
        places = []
        for number in range(first, min(first + limit, len(self._order))):
            if not self._bytes(number).startswith(wanted):
                break
            places.append(int(self._order[number]))
        return places

    def count(self, start: str) -> int:
        """Returns how many ids begin with some characters."""
        order = range(len(self._order))
        first = bisect_left(order, start.encode(), key=self._bytes)
        return bisect_left(order, start.encode() + _AFTER_ALL, key=self._bytes) - first

    def _bytes(self, number: int) -> bytes:
        """Returns an id by its number in the order."""
        text: str = self._texts[int(self._order[number])].as_py()
        return text.encode()
