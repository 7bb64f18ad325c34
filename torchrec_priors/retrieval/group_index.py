"""A rank's index: its candidates, listed by item set, so each set is searched by its own paths.

Candidates are the items that may be recommended and that have a row on this rank. Usually an item's
row has the same number as the item. If items share rows, or some items have no row
(`embedding/item_rows.py`), the index also has the row of each candidate.

A search goes through the candidates in tiles (all item sets at once) or in chunks (of one set).

Shapes: C candidates of this rank, S item sets, R branches (`priors/branch.py`), K paths, n
candidates of a chunk.
"""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.common.splitmix import GOLDEN, mix, unit
from torchrec_priors.embedding.item_rows import Held
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.ops.best_tiles import TILE as TILE_OF_GPU
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.index_parts import Chunk, Tile, TiledSets
from torchrec_priors.retrieval.open_paths import OpenPaths, most_open, open_paths

TILE = 1 << 13  # candidates in a tile
FEW = 1 << 9  # candidates in the first chunk


class GroupIndex:
    """The candidates of this rank in each item set, and the paths that search each item set.

    Attributes:
        shard: the rows of the embedding table that this rank holds; or, if there are `inputs`, the
            factors of the candidates' scores (`embedding/content_map.py`).
        inputs: the vectors of the candidates, if `shard` holds factors; otherwise None.
        item_C: the row ids of the candidates in the data set, ascending.
        set_sizes: the number of candidates of all ranks in each item set. At first, it is the
            number of items in the set. If not all of them are candidates, the caller must correct
            it.
        paths_of_set: for each item set, the slice of its paths.
        most_open_S: for each item set, the largest number of its paths that are open to a user
            (see `open_paths.py`).
        log_weight_S: for each item set, the logarithm of the number of items that a candidate
            stands for; 0 unless the index is a sample.
    """

    def __init__(
        self,
        tree: PriorTree,
        shard: Shard,
        held: Held | None = None,
        inputs: Shard | None = None,
    ) -> None:
        """
        Args:
            tree: the prior tree, which defines the item sets.
            shard: the rows of the embedding table that this rank holds, or factors of scores.
            held: the candidates and their rows; by default each row of the shard is that of the
                item with the same number.
            inputs: the vectors of the candidates, if `shard` holds factors.
        """
        if held is None:
            held = Held.each_its_own(shard.first, shard.last)
        device = shard.rows.device
        self._set_shard(shard)
        self.inputs = inputs
        self.item_C = torch.from_numpy(held.item_C).to(device)
        self._item_C = held.item_C

        # None if candidate c has row c of the shard: then a tile's vectors are read as a slice.
        self._row_C: Tensor | None = None
        if held.row_C is not held.item_C:
            self._row_C = torch.from_numpy(held.row_C - shard.first).to(device)

        # For each item set, the positions of its candidates, ascending.
        sets = tree.eligible_among(held.item_C)
        self._set_members([torch.from_numpy(positions).to(device) for positions in sets])
        self.set_sizes = tree.set_sizes
        self.most_open_S = most_open(tree)
        self.log_weight_S = [0.0] * tree.item_sets
        self._log_alternatives = self._counted_once(tree)

        # Paths are ordered by item set, so the paths of a set are a slice.
        item_set_K = np.array(tree.item_set_K)
        bounds = np.searchsorted(item_set_K, np.arange(tree.item_sets + 1))
        self.paths_of_set = [slice(int(low), int(high)) for low, high in itertools.pairwise(bounds)]

    def __len__(self) -> int:
        return len(self._item_C)

    @property
    def log_alternatives_RT(self) -> Tensor:
        """The logarithm of c_k(i) of each candidate in each branch: [R, C].

        c_k(i) is the number of paths that estimate the same probability (`PriorTree.alternatives`).
        """
        return self._log_alternatives()

    @property
    def row_of_candidate(self) -> np.ndarray:
        """The row of each candidate's vector in the shard, int64 [C]."""
        if self._row_C is None:
            return np.arange(len(self))
        rows: np.ndarray = self._row_C.cpu().numpy()
        return rows

    @property
    def norm_R(self) -> Tensor:
        """The length of each row of the shard, which is computed at the first call: [R]."""
        # The list belongs to this shard: copies of the index with the same rows share it.
        if not self._norms:
            self._norms.append(torch.linalg.vector_norm(self.shard.rows, dim=1))
        return self._norms[0]

    @property
    def in_a_set_C(self) -> Tensor:
        """Whether any path may retrieve the candidate: bool [C]. It must not be changed."""
        return self._in_a_set()

    @property
    def tile_count(self) -> int:
        """The number of tiles, with those in which no item set has candidates."""
        return -(-len(self) // TILE)

    @property
    def own_sizes(self) -> list[int]:
        """The number of this rank's candidates in each item set."""
        return [len(positions) for positions in self._sets]

    def over(self, shard: Shard, inputs: Shard | None = None) -> "GroupIndex":
        """Returns an index of the same candidates with other vectors: those of `shard`.

        Its rows must have the same numbers.

        Args:
            shard: the rows, or factors of scores.
            inputs: the vectors of the candidates, if `shard` holds factors.
        """
        index = copy.copy(self)
        index._set_shard(shard)
        index.inputs = inputs
        return index

    def with_vectors(self, vectors_CX: Tensor) -> "GroupIndex":
        """Returns an index of the same candidates with other vectors, one for each candidate.

        The vectors may have any width.
        """
        index = self.over(Shard(vectors_CX, 0))
        index._row_C = None
        # Tiles name rows, and these are other rows.
        index._tiled = []
        return index

    def open_paths(self, vector_BKd: Tensor, bias_BK: Tensor) -> list[OpenPaths]:
        """Picks the paths of each item set that are open to each user.

        Args:
            vector_BKd: the queries of all paths.
            bias_BK: added to the scores of a path; -inf if the path is closed to the user.
        """
        return [
            open_paths(vector_BKd, bias_BK, paths, most)
            for paths, most in zip(self.paths_of_set, self.most_open_S, strict=True)
        ]

    def vectors(self, tile: Tile) -> Tensor:
        """Returns the stored vectors of the candidates in a tile."""
        candidates = slice(tile.first, tile.first + tile.size)
        if self._row_C is None:
            return self.shard.rows[candidates]
        return self.shard.rows[self._row_C[candidates]]

    def places(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the candidates among some items.

        Args:
            items: row ids in any order.

        Returns:
            The indices of the items that are candidates; and their positions among the candidates.
        """
        # For an item above the largest candidate, the search returns a position after the end.
        position = np.searchsorted(self._item_C, items)
        index = np.flatnonzero(position < len(self._item_C))
        index = index[self._item_C[position[index]] == items[index]]
        return index, position[index]

    def sample(self, items_a_set: int) -> "GroupIndex":
        """Returns an index with a random sample of the candidates.

        A candidate is kept or left out depending only on its row id and item set, so the sample
        does not depend on the number of ranks. Each candidate stands for several items
        (`log_weight_S`).

        Args:
            items_a_set: the expected number of candidates in each item set, over all ranks. A set
                with fewer candidates is kept whole.
        """
        index = copy.copy(self)
        index.log_weight_S = []
        sets = []
        for number, positions in enumerate(self._sets):
            # Each candidate is kept with probability `share`, and stands for 1 / share items.
            share = min(1.0, items_a_set / max(int(self.set_sizes[number]), 1))
            keep = _uniform(self._item_C[positions.cpu().numpy()], number) < share
            sets.append(positions[torch.from_numpy(keep).to(positions.device)])
            index.log_weight_S.append(-math.log(share))
        index._set_members(sets)
        return index

    def restricted(self, allowed: Tensor) -> "GroupIndex":
        """Returns an index without the candidates that are not allowed.

        These are never scored, so lists contain the next best items instead.

        Args:
            allowed: bool [C], whether the candidate may be found.
        """
        index = copy.copy(self)
        allowed = allowed.to(self.item_C.device)
        # Only the lists of the item sets get shorter; the positions of candidates stay the same.
        index._set_members([positions[allowed[positions]] for positions in self._sets])
        return index

    def reach(self, path_K: Tensor) -> Tensor:
        """Returns bool [C]: whether any of some paths may retrieve the candidate.

        Args:
            path_K: bool, the paths to consider.
        """
        reached = torch.zeros(len(self), dtype=torch.bool, device=self.item_C.device)
        for paths, positions in zip(self.paths_of_set, self._sets, strict=True):
            if path_K[paths].any():
                reached[positions] = True
        return reached

    def among(self, tree: PriorTree, branches: list[int]) -> "GroupIndex":
        """Returns an index for searches with only the paths of some branches.

        It differs in `log_alternatives_RT`, which counts only these paths.
        """
        index = copy.copy(self)
        index._log_alternatives = self._counted_once(tree, branches)
        return index

    def chunks(self, number: int, size: int) -> Iterator[Chunk]:
        """Divides the candidates of an item set into chunks, in order.

        A chunk is as large as all chunks before it together, but has at least `FEW` and at most
        `size` candidates. The first chunk is small so that thresholds are known early: fewer items
        of the later chunks reach them.

        Args:
            number: the number of the item set.
            size: the largest number of candidates in a chunk.
        """
        candidates = len(self._sets[number])
        first = 0
        while first < candidates:
            last = min(first + min(max(first, FEW), size), candidates)
            yield Chunk(number, first, last)
            first = last

    def of_chunk(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Returns the candidates of a chunk.

        Returns:
            Their row ids in the data set, ascending; and the rows of their vectors in the shard.
        """
        position_n = self.positions(chunk.number)[chunk.first : chunk.last]
        row_n = position_n if self._row_C is None else self._row_C[position_n]
        return self.item_C[position_n], row_n

    def positions(self, number: int) -> Tensor:
        """Returns an item set's candidates, as ascending positions. They must not be changed."""
        return self._sets[number]

    def tiled(self) -> TiledSets:
        """Returns the candidates of all item sets in tiles. They are made at the first call."""
        # Copies of the index with the same candidates share this list, so tiles are made only once.
        if not self._tiled:
            self._tiled.append(self._make_tiled())
        return self._tiled[0]

    def _make_tiled(self) -> TiledSets:
        row_parts = []
        item_parts = []
        for positions in self._sets:
            padding = -len(positions) % TILE_OF_GPU
            row_n = positions if self._row_C is None else self._row_C[positions]
            row_parts.append(F.pad(row_n, (0, padding), value=-1))
            item_parts.append(F.pad(self.item_C[positions], (0, padding)))

        device = self.item_C.device
        set_t = np.repeat(
            np.arange(len(self._sets)), [len(rows) // TILE_OF_GPU for rows in row_parts]
        )
        number_C = torch.zeros(len(self), dtype=torch.int64, device=device)
        for positions in self._sets:
            number_C[positions] += 1
        bounds = [*(paths.start for paths in self.paths_of_set), self.paths_of_set[-1].stop]
        return TiledSets(
            row_E=torch.cat(row_parts).int(),
            set_t=torch.from_numpy(set_t).int().to(device),
            first_path_S1=torch.tensor(bounds, device=device),
            item_E=torch.cat(item_parts),
            most_sets=int(number_C.max()) if len(number_C) else 0,
        )

    def tiles(self) -> Iterator[Tile]:
        """Yields the tiles in order, without tiles in which no item set has candidates."""
        for first in range(0, len(self), TILE):
            size = min(TILE, len(self) - first)
            ends = torch.tensor([first, first + size], device=self.item_C.device)

            # The positions in a set are ascending, so those in the tile are a slice.
            columns = []
            for number, positions in enumerate(self._sets):
                low, high = torch.searchsorted(positions, ends).tolist()
                if low < high:
                    columns.append((number, positions[low:high] - first))
            if columns:
                yield Tile(first, size, columns)

    def _set_shard(self, shard: Shard) -> None:
        """Sets the rows, whose lengths are not known yet."""
        self.shard = shard
        self._norms: list[Tensor] = []

    def _set_members(self, sets: list[Tensor]) -> None:
        """Sets the positions of the candidates in each item set."""
        self._sets = sets
        self._tiled: list[TiledSets] = []
        candidates = len(self)
        device = self.item_C.device

        # It is computed at the first call, as only searches with repeats need it, and then shared
        # by copies of the index with the same sets.
        @functools.cache
        def in_a_set() -> Tensor:
            in_a_set_C = torch.zeros(candidates, dtype=torch.bool, device=device)
            for positions in sets:
                in_a_set_C[positions] = True
            return in_a_set_C

        self._in_a_set = in_a_set

    def _counted_once(
        self, tree: PriorTree, branches: list[int] | None = None
    ) -> Callable[[], Tensor]:
        """Returns a function that computes log c_k(i) at its first call, and then remembers it.

        It is not computed earlier, as max fusion never needs it.

        Args:
            tree: the prior tree.
            branches: the branches with paths that are counted; None for all branches.
        """
        items = self._item_C
        device = self.item_C.device

        # Copies of the index share this function, so c_k(i) is computed only once for all of them.
        # It refers to no index, which would keep that index's rows in memory.
        @functools.cache
        def log_alternatives() -> Tensor:
            # If an item has no path in a branch, the count is 0. The maximum makes it 1, so that
            # the logarithm is finite; the value is not used.
            alternatives_RT = np.maximum(tree.alternatives_among(items, branches), 1)
            return torch.from_numpy(np.log(alternatives_RT)).to(device)

        return log_alternatives


def _uniform(item: np.ndarray, item_set: int) -> np.ndarray:
    """Returns a pseudo-random number in [0, 1) for each item.

    It depends only on the row id and the item set (splitmix64).
    """
    start = np.uint64(item_set * 0xD1B54A32D192ED03 % 2**64)
    return unit(mix(item.astype(np.uint64) * GOLDEN + start))
