"""A rank's candidates, tile by tile and sorted by item set in a tile, ready for each set's queries.

Candidates are the items that a rank holds the rows of and may recommend. Usually each has the row
of its own number. If several share a row, or some have none (`embedding/item_rows.py`), the index
says which row belongs to which candidate.

Shapes: C candidates of this rank, S item sets, R branches of the tree, K paths, n candidates of a
chunk.
"""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.common.splitmix import GOLDEN, mix, unit
from torchrec_priors.embedding.item_rows import Held
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.open_paths import OpenPaths, most_open, open_paths

TILE = 1 << 13  # candidates
FEW = 1 << 9  # candidates of the first chunk


@dataclass(frozen=True)
class Tile:
    """Candidates [first, first + size) of an index.

    Attributes:
        columns: for each item set that has candidates here, its number and its candidates, counted
            from `first`.
    """

    first: int
    size: int
    columns: list[tuple[int, Tensor]]


class GroupIndex:
    """Lists of a rank's own items in each item set, and which paths search which item set.

    Attributes:
        shard: the rows.
        item_C: row ids of the candidates in the data set, ascending.
        set_sizes: candidates of all ranks in each item set. It counts the items of the set; if not
            all of them are candidates, the caller sets it.
        paths_of_set: for each item set.
        most_open_S: the largest number of its paths that a user has open (`open_paths`).
        log_weight_S: log of the number of items of the catalogue that a candidate of each item set
            counts for.
    """

    def __init__(self, tree: PriorTree, shard: Shard, held: Held | None = None) -> None:
        """
        Args:
            held: the candidates and their rows; without it every row is a candidate of the same
                number.
        """
        if held is None:
            held = Held.each_its_own(shard.first, shard.last)
        device = shard.rows.device
        self.shard = shard
        self.item_C = torch.from_numpy(held.item_C).to(device)
        self._item_C = held.item_C

        # None says that candidate c has row c of the shard: its vectors are read as a slice.
        self._row_C: Tensor | None = None
        if held.row_C is not held.item_C:
            self._row_C = torch.from_numpy(held.row_C - shard.first).to(device)

        self._sets = [
            torch.from_numpy(places).to(device) for places in tree.eligible_among(held.item_C)
        ]
        self.set_sizes = tree.set_sizes
        self.most_open_S = most_open(tree)
        self.log_weight_S = [0.0] * tree.item_sets
        self._log_alternatives = self._counted_once(tree)

        # Paths are ordered by item set, so each set's are a slice.
        paths = np.array(tree.item_set_K)
        bounds = np.searchsorted(paths, np.arange(tree.item_sets + 1))
        self.paths_of_set = [slice(int(low), int(high)) for low, high in itertools.pairwise(bounds)]

    def __len__(self) -> int:
        return len(self._item_C)

    @property
    def log_alternatives_RT(self) -> Tensor:
        """log c(i) of each branch and candidate (see `PriorTree.alternatives`)."""
        return self._log_alternatives()

    @property
    def own_sizes(self) -> list[int]:
        """The number of candidates of this rank in each item set."""
        return [len(places) for places in self._sets]

    def over(self, shard: Shard) -> "GroupIndex":
        """The same candidates, with the rows of `shard`, which have the same numbers."""
        index = copy.copy(self)
        index.shard = shard
        return index

    def open_paths(self, vector_BKd: Tensor, bias_BK: Tensor) -> list[OpenPaths]:
        """For each item set, the paths open to users; `bias_BK` is -inf for closed ones."""
        return [
            open_paths(vector_BKd, bias_BK, paths, most)
            for paths, most in zip(self.paths_of_set, self.most_open_S, strict=True)
        ]

    def vectors(self, tile: Tile) -> Tensor:
        """The stored vectors of a tile's candidates."""
        candidates = slice(tile.first, tile.first + tile.size)
        if self._row_C is None:
            return self.shard.rows[candidates]
        return self.shard.rows[self._row_C[candidates]]

    def places(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of the items are candidates, as indices; their places among the candidates)."""
        # Items above the largest candidate get a place beyond the end, which must not be read.
        place = np.searchsorted(self._item_C, items)
        index = np.flatnonzero(place < len(self._item_C))
        index = index[self._item_C[place[index]] == items[index]]
        return index, place[index]

    def sample(self, items_a_set: int) -> "GroupIndex":
        """About `items_a_set` candidates of each item set; a set of fewer is taken whole.

        They are chosen by their ids, so the sample does not depend on the ranks. Each counts for
        several items (`log_weight_S`).
        """
        index = copy.copy(self)
        index._sets = []
        index.log_weight_S = []
        for number, places in enumerate(self._sets):
            # Kept with probability `share`, each candidate counts for 1 / share items.
            share = min(1.0, items_a_set / max(int(self.set_sizes[number]), 1))
            keep = _uniform(self._item_C[places.cpu().numpy()], number) < share
            index._sets.append(places[torch.from_numpy(keep).to(places.device)])
            index.log_weight_S.append(-math.log(share))
        return index

    def restricted(self, allowed: Tensor) -> "GroupIndex":
        """The same index without the candidates that are not allowed.

        They are never scored, so other items take their places in the lists.

        Args:
            allowed: bool [C].
        """
        index = copy.copy(self)
        allowed = allowed.to(self.item_C.device)
        # Only the lists of what is scored get shorter: rows and places stay as they are.
        index._sets = [places[allowed[places]] for places in self._sets]
        return index

    def reach(self, path_K: Tensor) -> Tensor:
        """bool [C]: whether any of some paths (bool [K]) may retrieve a candidate."""
        reached = torch.zeros(len(self), dtype=torch.bool, device=self.item_C.device)
        for paths, places in zip(self.paths_of_set, self._sets, strict=True):
            if path_K[paths].any():
                reached[places] = True
        return reached

    def among(self, tree: PriorTree, branches: list[int]) -> "GroupIndex":
        """The same index for searches that use only the paths of some branches."""
        index = copy.copy(self)
        index._log_alternatives = self._counted_once(tree, branches)
        return index

    def chunks(self, number: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The candidates of an item set in order, some at a time.

        A chunk is as large as all chunks before it, at least `FEW` and at most `size`: after a
        small first chunk the thresholds that the best must reach are known.

        Returns:
            Row ids in the data set, ascending, and the rows of their vectors in the shard.
        """
        places = self._sets[number]
        first = 0
        while first < len(places):
            last = first + min(max(first, FEW), size)
            place_n = places[first:last]
            row_n = place_n
            if self._row_C is not None:
                row_n = self._row_C[place_n]
            yield self.item_C[place_n], row_n
            first = last

    def tiles(self) -> Iterator[Tile]:
        """Tiles in order; one without candidates to score is left out."""
        for first in range(0, len(self), TILE):
            size = min(TILE, len(self) - first)
            ends = torch.tensor([first, first + size], device=self.item_C.device)

            # The candidates of a set are ascending, so those in the tile are a slice of them.
            columns = []
            for number, places in enumerate(self._sets):
                low, high = torch.searchsorted(places, ends).tolist()
                if low < high:
                    columns.append((number, places[low:high] - first))
            if columns:
                yield Tile(first, size, columns)

    def _counted_once(
        self, tree: PriorTree, branches: list[int] | None = None
    ) -> Callable[[], Tensor]:
        """The log of c(i), counted at the first use: max fusion never needs it."""

        # The cache belongs to the function, so copies of the index share what was counted.
        @functools.cache
        def log_alternatives() -> Tensor:
            # An item without a head in a branch has no alternatives there; its log is not used.
            alternatives_RT = np.maximum(tree.alternatives_among(self._item_C, branches), 1)
            return torch.from_numpy(np.log(alternatives_RT)).to(self.item_C.device)

        return log_alternatives


def _uniform(item: np.ndarray, item_set: int) -> np.ndarray:
    """A number in [0, 1) for each item, from its row id and the item set only (splitmix64)."""
    start = np.uint64(item_set * 0xD1B54A32D192ED03 % 2**64)
    return unit(mix(item.astype(np.uint64) * GOLDEN + start))
