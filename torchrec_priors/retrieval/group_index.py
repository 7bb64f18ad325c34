"""A rank's rows, tile by tile and sorted by item set within a tile, ready to be scored by each set's own queries."""

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.embedding.table import Shard
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.open_paths import most_open
from torchrec_priors.splitmix import GOLDEN, mix, unit

TILE = 1 << 13


@dataclass(frozen=True)
class Tile:
    """Rows [first, first + size) of the table.

    Attributes:
        columns: for each item set that has rows here, its number and its rows, counted from `first`.
    """

    first: int
    size: int
    columns: list[tuple[int, Tensor]]


class GroupIndex:
    """Group lists of a rank's own rows alone, and which paths search which item set.

    Attributes:
        shard: the rows.
        paths_of_set: for each item set.
        most_open_S: how many of its paths a user has open at most (`open_paths`).
        log_weight_S: log of how many rows of the catalogue a row of each item set stands for.
        log_alternatives_RT: log c(i) of each branch and row of the shard (see `PriorTree.alternatives`).
    """

    def __init__(self, tree: PriorTree, shard: Shard) -> None:
        self.shard = shard
        device = shard.rows.device
        self._rows = [torch.from_numpy(rows).to(device) for rows in tree.eligible(shard.first, shard.last)]
        self._set_sizes = tree.set_sizes
        self.most_open_S = most_open(tree)
        self.log_weight_S = [0.0] * tree.item_sets
        self.log_alternatives_RT = _log_alternatives(tree, shard)
        paths = np.array(tree.item_set_K)
        bounds = np.searchsorted(paths, np.arange(tree.item_sets + 1))
        self.paths_of_set = [slice(int(low), int(high)) for low, high in itertools.pairwise(bounds)]

    def sample(self, rows_a_set: int) -> "GroupIndex":
        """About so many rows of each item set, a set of fewer whole, chosen by their ids, whatever the ranks; each
        stands for several (`log_weight_S`)."""
        index = copy.copy(self)
        index._rows, index.log_weight_S = [], []
        for number, rows in enumerate(self._rows):
            share = min(1.0, rows_a_set / max(int(self._set_sizes[number]), 1))
            keep = _uniform(rows.cpu().numpy(), number) < share
            index._rows.append(rows[torch.from_numpy(keep).to(rows.device)])
            index.log_weight_S.append(-math.log(share))
        return index

    def restricted(self, allowed: Tensor) -> "GroupIndex":
        """The same index without the rows that are not allowed: they are never scored, so others take their places.

        Args:
            allowed: bool by row of the shard.
        """
        index = copy.copy(self)
        allowed = allowed.to(self.shard.rows.device)
        index._rows = [rows[allowed[rows - self.shard.first]] for rows in self._rows]
        return index

    def reach(self, path_K: Tensor) -> Tensor:
        """bool by row of the shard: whether one of some paths (bool [K]) may retrieve it."""
        reached = torch.zeros(len(self.shard.rows), dtype=torch.bool, device=self.shard.rows.device)
        for paths, rows in zip(self.paths_of_set, self._rows, strict=True):
            if path_K[paths].any():
                reached[rows - self.shard.first] = True
        return reached

    def among(self, tree: PriorTree, branches: list[int]) -> "GroupIndex":
        """The same index for searches that use the paths of some branches alone."""
        index = copy.copy(self)
        index.log_alternatives_RT = _log_alternatives(tree, self.shard, branches)
        return index

    def places(self, number: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Row ids of an item set and their places in the shard, `size` at a time, ascending."""
        rows = self._rows[number]
        for first in range(0, len(rows), size):
            row_n = rows[first : first + size]
            yield row_n, row_n - self.shard.first

    def tiles(self) -> Iterator[Tile]:
        """Tiles in order; one without rows to score is left out."""
        for first in range(self.shard.first, self.shard.last, TILE):
            size = min(TILE, self.shard.last - first)
            ends = torch.tensor([first, first + size], device=self.shard.rows.device)
            columns = []
            for number, rows in enumerate(self._rows):
                low, high = torch.searchsorted(rows, ends).tolist()
                if low < high:
                    columns.append((number, rows[low:high] - first))
            if columns:
                yield Tile(first, size, columns)


def _log_alternatives(tree: PriorTree, shard: Shard, branches: list[int] | None = None) -> Tensor:
    alternatives_RT = np.maximum(tree.alternatives(shard.first, shard.last, branches), 1)
    return torch.from_numpy(np.log(alternatives_RT)).to(shard.rows.device)


def _uniform(row: np.ndarray, item_set: int) -> np.ndarray:
    """A number in [0, 1) for each row, which depends on the row and the item set alone (splitmix64)."""
    start = np.uint64(item_set * 0xD1B54A32D192ED03 % 2**64)
    return unit(mix(row.astype(np.uint64) * GOLDEN + start))
