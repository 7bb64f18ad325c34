"""How the candidates of an index are arranged for the kernel of requests.

Candidates are in blocks of `LANES`, so that one instruction handles a block. List 0 has all
candidates. Item sets with few candidates have a list of their own, so that their candidates are
neighbours. Larger sets are searched in list 0, with a mask. All lists are cut into tiles of the
same candidates, and each tile begins with a new block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LANES = 16  # candidates of a block

# Candidates of a tile. Each item set begins a block in each tile, so tiles of large catalogues are
# larger.
_TILE = 1 << 11
_LARGE_TILE = 1 << 14
_LARGE = 1 << 16  # candidates of a catalogue with large tiles


@dataclass(frozen=True)
class Blocks:
    """The candidates of all lists in blocks, one list after another.

    Attributes:
        candidates: the number of candidates.
        tile: the number of candidates of a tile.
        position: int32 [blocks x lanes], the candidate of each lane; -1 for a lane without one.
        block_at: int64 [lists, tiles + 1], the first block of each tile.
        list_of_set: int64 [sets].
        masks: for each set, the lanes of list 0 that are in it, a bit each: uint16 [blocks]; None
            for a set with a list of its own, or with all candidates.
    """

    candidates: int
    tile: int
    position: np.ndarray
    block_at: np.ndarray
    list_of_set: np.ndarray
    masks: list[np.ndarray | None]

    @classmethod
    def of(cls, candidates: int, positions_S: Sequence[np.ndarray], dense: int) -> "Blocks":
        """Arranges candidates.

        Args:
            candidates: the number of candidates.
            positions_S: the candidates of each item set, ascending.
            dense: a set with more than 1 / dense of the candidates is searched among all of them.
        """
        tile = _LARGE_TILE if candidates > _LARGE else _TILE
        lists = [_list_of(np.arange(candidates), candidates, tile)]
        list_of_set = np.zeros(len(positions_S), np.int64)
        masks: list[np.ndarray | None] = []
        for number, position in enumerate(positions_S):
            mask = None
            if len(position) * dense < candidates:
                list_of_set[number] = len(lists)
                lists.append(_list_of(position, candidates, tile))
            elif len(position) < candidates:
                mask = _mask_of(position, len(lists[0].position))
            masks.append(mask)

        firsts = np.cumsum([0, *(int(part.block_at[-1]) for part in lists)])
        block_at = [part.block_at + first for part, first in zip(lists, firsts, strict=False)]
        return cls(
            candidates,
            tile,
            np.concatenate([part.position for part in lists]),
            np.stack(block_at),
            list_of_set,
            masks,
        )

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return self.block_at.shape[1] - 1

    @property
    def of_all(self) -> int:
        """The number of blocks of list 0."""
        return int(self.block_at[0, -1])


@dataclass(frozen=True)
class _List:
    """A list of candidates in blocks.

    Attributes:
        position: int32 [blocks x lanes], ascending; -1 for a lane without candidate.
        block_at: int64 [tiles + 1], the first block of each tile.
    """

    position: np.ndarray
    block_at: np.ndarray


def _list_of(position: np.ndarray, candidates: int, tile: int) -> _List:
    """Arranges candidates in blocks; each tile begins with a new block.

    Args:
        position: the positions of the candidates, ascending.
        candidates: the number of all candidates.
        tile: the number of candidates of a tile.
    """
    tile_of = position // tile
    counts = np.bincount(tile_of, minlength=max(1, -(-candidates // tile)))
    block_at = np.concatenate([[0], np.cumsum(-(-counts // LANES))])
    within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)

    lanes = np.full(block_at[-1] * LANES, -1, np.int32)
    lanes[block_at[tile_of] * LANES + within] = position
    return _List(lanes, block_at)


def _mask_of(position: np.ndarray, lanes: int) -> np.ndarray:
    """Returns the lanes of list 0 that hold some candidates, a bit each: uint16 [blocks]."""
    is_in = np.zeros(lanes, bool)
    is_in[position] = True
    mask: np.ndarray = np.packbits(is_in, bitorder="little").view(np.uint16)
    return mask
