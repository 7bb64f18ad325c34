"""The parts into which searches divide an index: tiles and chunks of its candidates.

Shapes: S item sets, E places of candidates in tiles, t tiles.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Consecutive candidates of an index: [first, first + size).

    Attributes:
        first: the position of the tile's first candidate.
        size: the number of candidates.
        columns: for each item set that has candidates in the tile, its number and the positions of
            these candidates, counted from `first`.
    """

    first: int
    size: int
    columns: list[tuple[int, Tensor]]


@dataclass(frozen=True)
class Chunk:
    """Consecutive candidates of an item set: [first, last).

    Attributes:
        number: the number of the item set.
        first, last: places in the set's list of candidates.
    """

    number: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class TiledSets:
    """The candidates of all item sets in tiles, on the device (`ops/best_tiles.py`).

    Attributes:
        row_E, set_t, first_path_S1: see `TiledItems`.
        item_E: int64, the row id of the candidate at each place; 0 for padding.
        most_sets: the largest number of sets that a candidate is in.
    """

    row_E: Tensor
    set_t: Tensor
    first_path_S1: Tensor
    item_E: Tensor
    most_sets: int
