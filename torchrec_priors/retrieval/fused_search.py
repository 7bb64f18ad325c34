"""Search under any fusion, and the sums of softmaxes: a tile's items are scored by all paths.

Only [users, tile] scores exist at a time. They are computed in products of one shape, so a score
does not depend on the other rows or users in the product.

Shapes: B users, K paths, p paths of one item set, k results, T items of a tile, n some of a set's
items, d width.
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

# Items and users of a product.
_COLUMNS = 512
_USERS = 16


def search_fused(
    index: GroupIndex,
    score: Score,
    open_S: list[OpenPaths],
    banned: tuple[np.ndarray, np.ndarray],
    k: int,
    fusion: Fusion,
) -> tuple[Tensor, Tensor]:
    """Best keys of this rank's items and the paths that gave them: [B, k], padded with `NOTHING`.

    Args:
        open_S: the users' queries for each item set.
        banned: users, and places among the index's candidates, of items that must not be found.
    """
    users = len(open_S[0].bias_Bp)
    device = open_S[0].bias_Bp.device
    best_Bk = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
    path_Bk = torch.zeros((users, k), dtype=torch.int32, device=device)

    for tile in index.tiles():
        places = slice(tile.first, tile.first + tile.size)
        vectors = score.items(index.vectors(tile))
        fused = fusion.accumulator(users, index.log_alternatives_RT[:, places])
        # A set's items in this tile are scored by the set's own paths only (Eq. 3).
        for number, columns in tile.columns:
            paths = open_S[number]
            for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                biased_Bpn = score_Bpn + paths.bias_Bp[..., None]
                fused.add(_as_slice(columns[part]), biased_Bpn, paths.path_Bp)
        # Items are banned after fusion: for every path at once.
        score_BT, path_BT = fused.result()
        score_BT[_banned_in(tile, banned, device)] = -torch.inf

        # The best of this tile join the best so far, and k of them stay.
        keys_BT = encode(score_BT, index.item_C[places])
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
    """log sum over this rank's i in Omega_k of exp(q_k . e_i) in double precision: [B, K].

    It is -inf for paths without items, and for closed paths, which may be left out.

    Args:
        banned: users, and places among the index's candidates, of items that are left out of a
            user's sums.
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
                # Each candidate of a sample counts for several items: its weight is added.
                sum_Bp = torch.logsumexp(score_Bpn.double(), 2) + index.log_weight_S[number]
                # A user's paths of an item set are distinct, so no sum is written twice at once.
                before_Bp = sums_BK.gather(1, paths.path_Bp)
                sums_BK.scatter_(1, paths.path_Bp, torch.logaddexp(before_Bp, sum_Bp))
    return sums_BK


def _banned_in(
    tile: Tile, banned: tuple[np.ndarray, np.ndarray], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(user, column in the tile) of the banned items of a tile."""
    user, place = banned
    inside = (place >= tile.first) & (place < tile.first + tile.size)
    columns = torch.from_numpy(place[inside] - tile.first)
    return torch.from_numpy(user[inside]).to(device), columns.to(device)


def _as_slice(columns_n: Tensor) -> Tensor | slice:
    """The same ascending columns; a slice, which needs no copy, if they have no gaps."""
    first = int(columns_n[0])
    last = int(columns_n[-1])
    if last - first + 1 == len(columns_n):
        return slice(first, last + 1)
    return columns_n


def _scores(query_Bpd: Tensor, vectors_nd: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Scores of some of the vectors at a time: which, and [B, p, n]."""
    # Users and vectors are padded with zeros to whole products.
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
