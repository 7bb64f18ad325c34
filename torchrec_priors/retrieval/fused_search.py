"""Searches with any fusion, and computes the normalisers of softmaxes, one tile at a time.

Both need the scores of all items, but only those of one tile are in memory at a time. They are
computed in matrix products that all have the same shape, so a score does not depend on the other
items or users in the product.

Shapes: B users, K paths, p paths of one item set, k results, T items of a tile, n some items of one
item set, d width.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex, Tile
from torchrec_priors.retrieval.keys import NOTHING, encode
from torchrec_priors.retrieval.open_paths import OpenPaths

_COLUMNS = 512  # items in a product
_USERS = 16  # users in a product


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
    users = len(open_S[0].bias_Bp)
    device = open_S[0].bias_Bp.device
    best_Bk = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
    path_Bk = torch.zeros((users, k), dtype=torch.int32, device=device)

    for tile in index.tiles():
        candidates_of_tile = slice(tile.first, tile.first + tile.size)
        vectors = score.items(index.vectors(tile))
        fused = fusion.accumulator(users, index.log_alternatives_RT[:, candidates_of_tile])

        # The items of each set are scored only with the paths of this set (Eq. 3).
        for number, columns in tile.columns:
            paths = open_S[number]
            for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                biased_Bpn = score_Bpn + paths.bias_Bp[..., None]
                fused.add(_as_slice(columns[part]), biased_Bpn, paths.path_Bp)

        # Items are banned after fusion, which bans them for all paths at once.
        score_BT, path_BT = fused.result()
        score_BT[_banned_in(tile, banned, device)] = -torch.inf

        # The best items of this tile are merged into the best items so far.
        keys_BT = encode(score_BT, index.item_C[candidates_of_tile])
        tile_best, tile_column = keys_BT.topk(min(k, tile.size), dim=1)
        candidates = torch.cat([best_Bk, tile_best], 1)
        candidate_paths = torch.cat([path_Bk, path_BT.gather(1, tile_column)], 1)
        best_Bk, column = candidates.topk(k, dim=1)
        path_Bk = candidate_paths.gather(1, column)
    return best_Bk, path_Bk


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

    for tile in index.tiles():
        vectors = score.items(index.vectors(tile))
        if banned is not None:
            shape = (len(bias_BK), tile.size)
            banned_BT = torch.zeros(shape, dtype=torch.bool, device=vectors.device)
            banned_BT[_banned_in(tile, banned, vectors.device)] = True

        for number, columns in tile.columns:
            paths = open_S[number]
            for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                if banned is not None:
                    score_Bpn = score_Bpn.masked_fill(banned_BT[:, None, columns[part]], -torch.inf)
                # In a sample of the items, each candidate stands for several items.
                sum_Bp = torch.logsumexp(score_Bpn.double(), 2) + index.log_weight_S[number]
                # A user's paths in an item set are distinct, so `scatter_` writes each sum once.
                before_Bp = sums_BK.gather(1, paths.path_Bp)
                sums_BK.scatter_(1, paths.path_Bp, torch.logaddexp(before_Bp, sum_Bp))
    return sums_BK


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
