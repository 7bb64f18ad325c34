"""A rank's rows, tile by tile and sorted by item set within a tile, ready to be scored by each set's own queries."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.embedding.table import Shard
from torchrec_priors.priors.tree import PriorTree

TILE = 1 << 13


@dataclass(frozen=True)
class Tile:
    """Rows [first, first + size) of the table.

    Attributes:
        columns: for each item set that has rows here, its number, its rows, counted from `first`, and for each of them
            log c(i) (see `fusion`).
    """

    first: int
    size: int
    columns: list[tuple[int, Tensor, Tensor]]


class GroupIndex:
    """Group lists of a rank's own rows alone, and which paths search which item set."""

    def __init__(self, tree: PriorTree, shard: Shard) -> None:
        self.shard = shard
        device = shard.rows.device
        self._rows = [torch.from_numpy(rows).to(device) for rows in tree.eligible(shard.first, shard.last)]
        counts = tree.alternatives(shard.first, shard.last)
        self._log_alternatives = [torch.from_numpy(np.log(count)).float().to(device) for count in counts]
        paths = np.array(tree.item_set_K)
        bounds = np.searchsorted(paths, np.arange(tree.item_sets + 1))
        self.paths_of_set = [slice(int(low), int(high)) for low, high in itertools.pairwise(bounds)]

    def restricted(self, allowed: Tensor) -> "GroupIndex":
        """The same index without the rows that are not allowed: they are never scored, so others take their places.

        Args:
            allowed: bool by row of the shard.
        """
        index = copy.copy(self)
        allowed = allowed.to(self.shard.rows.device)
        kept = [allowed[rows - self.shard.first] for rows in self._rows]
        index._rows = [rows[keep] for rows, keep in zip(self._rows, kept, strict=True)]
        index._log_alternatives = [logs[keep] for logs, keep in zip(self._log_alternatives, kept, strict=True)]
        return index

    def tiles(self) -> Iterator[Tile]:
        """Tiles in order; one without rows to score is left out."""
        for first in range(self.shard.first, self.shard.last, TILE):
            size = min(TILE, self.shard.last - first)
            ends = torch.tensor([first, first + size], device=self.shard.rows.device)
            columns = []
            for number, rows in enumerate(self._rows):
                low, high = torch.searchsorted(rows, ends).tolist()
                if low < high:
                    columns.append((number, rows[low:high] - first, self._log_alternatives[number][low:high]))
            if columns:
                yield Tile(first, size, columns)
