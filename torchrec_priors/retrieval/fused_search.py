"""Searches with any fusion, and computes the normalisers of softmaxes, tile by tile.

Both need the scores of all items, but each thread has only those of one tile in memory at a time.
They are computed in matrix products that all have the same shape, so a score does not depend on the
other items or users in the product.

Shapes: B users, K paths, p paths of one item set, k results, T items of a tile, n some items of one
item set, d width.
"""

from collections.abc import Callable, Iterator
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.ops.work_queue import Piece, work_through
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.index_parts import Tile
from torchrec_priors.retrieval.keys import NOTHING, encode
from torchrec_priors.retrieval.open_paths import OpenPaths, flops

_COLUMNS = 512  # items in a product
_USERS = 16  # users in a product
_TILES_A_THREAD = 4  # tiles that are worth a queue


def search_fused(
    index: GroupIndex,
    score: Score,
    open_S: list[OpenPaths],
    banned: tuple[np.ndarray, np.ndarray],
    k: int,
    fusion: Fusion,
) -> tuple[Tensor, Tensor]:
    """Finds the k best of this rank's items for each user.

    Args:
        index: this rank's items.
        score: turns stored vectors into the vectors that scores are computed with.
        open_S: for each item set, the queries of the paths that are open to each user.
        banned: the items that must not be found, as pairs of a user and a position among the
            candidates of the index.
        k: the number of items for each user.
        fusion: how the scores of an item are combined into one.

    Returns:
        Keys of the best items (`keys.py`) and the paths that contributed most to their scores:
        [B, k] each. The keys of shorter lists are padded with `NOTHING`.
    """
    searchers: list[_Searcher] = []

    def worker() -> Callable[[Tile], None]:
        searcher = _Searcher(index, score, open_S, banned, k, fusion)
        searchers.append(searcher)
        return searcher.search

    _through_tiles(index, index.tiles(), worker, open_S)
    best_Bk, path_Bk = searchers[0].best
    for other in searchers[1:]:
        best_Bk, path_Bk = _merged(best_Bk, path_Bk, *other.best)
    return best_Bk, path_Bk


class _Searcher:
    """Searches some tiles, in one thread.

    Attributes:
        best: keys and paths of the best items so far, [B, k] each.
    """

    def __init__(
        self,
        index: GroupIndex,
        score: Score,
        open_S: list[OpenPaths],
        banned: tuple[np.ndarray, np.ndarray],
        k: int,
        fusion: Fusion,
    ) -> None:
        """
        Args:
            index, score, open_S, banned, k, fusion: as for `search_fused`.
        """
        self._index = index
        self._score = score
        self._open_S = open_S
        self._banned = banned
        self._k = k
        self._fusion = fusion
        self._users = len(open_S[0].bias_Bp)
        device = open_S[0].bias_Bp.device
        shape = (self._users, k)
        self.best = (
            torch.full(shape, NOTHING, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.int32, device=device),
        )

    def search(self, tile: Tile) -> None:
        """Merges the best items of a tile into the best items so far."""
        candidates_of_tile = slice(tile.first, tile.first + tile.size)
        vectors = self._score.items(self._index.vectors(tile))
        log_alternatives_RT = self._index.log_alternatives_RT[:, candidates_of_tile]
        fused = self._fusion.accumulator(self._users, log_alternatives_RT)

        # The items of each set are scored only with the paths of this set (Eq. 3).
        for number, columns in tile.columns:
            paths = self._open_S[number]
            for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                biased_Bpn = score_Bpn + paths.bias_Bp[..., None]
                fused.add(_as_slice(columns[part]), biased_Bpn, paths.path_Bp)

        # Items are banned after fusion, which bans them for all paths at once.
        score_BT, path_BT = fused.result()
        score_BT[_banned_in(tile, self._banned, score_BT.device)] = -torch.inf

        keys_BT = encode(score_BT, self._index.item_C[candidates_of_tile])
        tile_best, tile_column = keys_BT.topk(min(self._k, tile.size), dim=1)
        self.best = _merged(*self.best, tile_best, path_BT.gather(1, tile_column))


def log_sums(
    index: GroupIndex,
    score: Score,
    vector_BKd: Tensor,
    bias_BK: Tensor,
    banned: tuple[np.ndarray, np.ndarray] | None = None,
) -> Tensor:
    """Computes log sum exp(q_k . e_i) over this rank's items i in Omega_k, in double precision.

    Args:
        index: this rank's items.
        score: turns stored vectors into the vectors that scores are computed with.
        vector_BKd: the queries of all paths.
        bias_BK: -inf for paths that are closed to a user; other values are not used.
        banned: the items that are left out of a user's sums, as pairs of a user and a position
            among the candidates of the index; or None.

    Returns:
        [B, K]; -inf for paths without items. For closed paths the value may be the sum or -inf.
    """
    sums_BK = torch.full(bias_BK.shape, -torch.inf, dtype=torch.float64, device=bias_BK.device)
    open_S = index.open_paths(vector_BKd, bias_BK)

    sums = _Sums(sums_BK)

    def add(numbered: tuple[int, Tile]) -> None:
        place, tile = numbered
        sums.add(place, list(_sums_of_tile(index, score, open_S, tile, banned)))

    _through_tiles(index, enumerate(index.tiles()), lambda: add, open_S)
    return sums_BK


def _sums_of_tile(
    index: GroupIndex,
    score: Score,
    open_S: list[OpenPaths],
    tile: Tile,
    banned: tuple[np.ndarray, np.ndarray] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields paths, and the logarithms of their sums over some items of a tile: [B, p] each."""
    vectors = score.items(index.vectors(tile))
    if banned is not None:
        shape = (len(open_S[0].bias_Bp), tile.size)
        banned_BT = torch.zeros(shape, dtype=torch.bool, device=vectors.device)
        banned_BT[_banned_in(tile, banned, vectors.device)] = True

    for number, columns in tile.columns:
        paths = open_S[number]
        for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
            if banned is not None:
                score_Bpn = score_Bpn.masked_fill(banned_BT[:, None, columns[part]], -torch.inf)
            # In a sample of the items, each candidate stands for several items.
            sum_Bp = torch.logsumexp(score_Bpn.double(), 2) + index.log_weight_S[number]
            yield paths.path_Bp, sum_Bp


class _Sums:
    """Adds the sums of tiles up in the order of the tiles, whichever is done first."""

    def __init__(self, sums_BK: Tensor) -> None:
        """
        Args:
            sums_BK: the logarithms of the sums so far, which `add` changes.
        """
        self._sums_BK = sums_BK
        self._lock = Lock()
        self._next = 0
        self._waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(self, place: int, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Adds the sums of a tile, after those of all tiles before it.

        Args:
            place: the place of the tile in the order, from 0.
            parts: what `_sums_of_tile` yields.
        """
        with self._lock:
            self._waiting[place] = parts
            while self._next in self._waiting:
                for path_Bp, sum_Bp in self._waiting.pop(self._next):
                    # A user's paths in an item set are distinct, so `scatter_` writes each once.
                    before_Bp = self._sums_BK.gather(1, path_Bp)
                    self._sums_BK.scatter_(1, path_Bp, torch.logaddexp(before_Bp, sum_Bp))
                self._next += 1


def _through_tiles(
    index: GroupIndex,
    tiles: Iterator[Piece],
    worker: Callable[[], Callable[[Piece], None]],
    open_S: list[OpenPaths],
) -> None:
    """Works through the tiles of an index: divided among threads, or divided in each operation."""
    # A few tiles would leave threads without work.
    if index.tile_count < _TILES_A_THREAD * torch.get_num_threads():
        work = worker()
        for tile in tiles:
            work(tile)
        return
    work_through(tiles, worker, index.item_C.device, flops(index.own_sizes, open_S))


def _merged(
    keys_Bk: Tensor, path_Bk: Tensor, keys_Bt: Tensor, path_Bt: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the best of two lists of each user, as keys and paths: as many as in the first."""
    keys = torch.cat([keys_Bk, keys_Bt], 1)
    best_Bk, column_Bk = keys.topk(keys_Bk.shape[1], dim=1)
    return best_Bk, torch.cat([path_Bk, path_Bt], 1).gather(1, column_Bk)


def _banned_in(
    tile: Tile, banned: tuple[np.ndarray, np.ndarray], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns the users, and the columns in the tile, of the banned items in a tile."""
    user, position = banned
    inside = (position >= tile.first) & (position < tile.first + tile.size)
    columns = torch.from_numpy(position[inside] - tile.first)
    return torch.from_numpy(user[inside]).to(device), columns.to(device)


def _as_slice(columns_n: Tensor) -> Tensor | slice:
    """Returns ascending columns as a slice, which needs no copy, if they have no gaps."""
    first = int(columns_n[0])
    last = int(columns_n[-1])
    if last - first + 1 == len(columns_n):
        return slice(first, last + 1)
    return columns_n


def _scores(query_Bpd: Tensor, vectors_nd: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Scores the vectors for all users and paths, some of the vectors at a time.

    Yields:
        The slice of `vectors_nd`, and its scores [B, p, n].
    """
    # Users and vectors are padded with zeros, so that all products have the same shape.
    users, paths, dim = query_Bpd.shape
    tiles = max(1, -(-users // _USERS))
    padded = F.pad(query_Bpd, (0, 0, 0, 0, 0, tiles * _USERS - users))
    query_tiles = padded.reshape(tiles, _USERS * paths, dim)

    for start in range(0, len(vectors_nd), _COLUMNS):
        chunk = vectors_nd[start : start + _COLUMNS]
        columns = F.pad(chunk, (0, 0, 0, _COLUMNS - len(chunk))).T
        scores = torch.stack([queries @ columns for queries in query_tiles])
        score_Bpn = scores.view(-1, paths, _COLUMNS)[:users, :, : len(chunk)]
        yield slice(start, start + len(chunk)), score_Bpn
