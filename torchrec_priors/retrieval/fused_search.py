"""Search under any fusion: the scores of a tile's items by all paths, fused item by item; and the sums under softmaxes.

Only [users, tile] scores exist at a time. They are computed in products of one shape, so that a score does not depend
on which other rows or users stand beside it.

Shapes: B users, K paths, p paths of one item set, k results, T items of a tile, n some of a set's items, d width.
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
        banned: users, and places among the index's candidates, of what must not be found.
    """
    users = len(open_S[0].bias_Bp)
    device = open_S[0].bias_Bp.device
    best = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
    path = torch.zeros((users, k), dtype=torch.int32, device=device)
    for tile in index.tiles():
        vectors = score.items(index.vectors(tile))
        last = tile.first + tile.size
        fused = fusion.accumulator(users, index.log_alternatives_RT[:, tile.first : last])
        for number, columns in tile.columns:
            paths = open_S[number]
            for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                fused.add(
                    _stretch(columns[part]), score_Bpn + paths.bias_Bp[..., None], paths.path_Bp
                )
        score_BT, path_BT = fused.result()
        score_BT[_within(tile, banned, device)] = -torch.inf
        keys_BT = encode(score_BT, index.item_C[tile.first : last])
        tile_best, column = keys_BT.topk(min(k, tile.size), dim=1)
        candidates = torch.cat([best, tile_best], 1)
        candidate_paths = torch.cat([path, path_BT.gather(1, column)], 1)
        best, place = candidates.topk(k, dim=1)
        path = candidate_paths.gather(1, place)
    return best, path


def log_sums(
    index: GroupIndex,
    score: Score,
    vector_BKd: Tensor,
    bias_BK: Tensor,
    banned: tuple[np.ndarray, np.ndarray] | None = None,
) -> Tensor:
    """log sum over this rank's i in Omega_k of exp(q_k . e_i) in double precision, [B, K]; -inf without any, and for
    closed paths, which may be left out.

    Args:
        banned: users, and places among the index's candidates, of what a user's sums are without.
    """
    sums_BK = torch.full(bias_BK.shape, -torch.inf, dtype=torch.float64, device=bias_BK.device)
    open_S = index.open_paths(vector_BKd, bias_BK)
    for tile in index.tiles():
        vectors = score.items(index.vectors(tile))
        if banned is not None:
            banned_BT = torch.zeros(
                len(bias_BK), tile.size, dtype=torch.bool, device=vectors.device
            )
            banned_BT[_within(tile, banned, vectors.device)] = True
        for number, columns in tile.columns:
            paths = open_S[number]
            for some, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                if banned is not None:
                    score_Bpn = score_Bpn.masked_fill(banned_BT[:, None, columns[some]], -torch.inf)
                part = torch.logsumexp(score_Bpn.double(), 2) + index.log_weight_S[number]
                sums_BK.scatter_(
                    1, paths.path_Bp, torch.logaddexp(sums_BK.gather(1, paths.path_Bp), part)
                )
    return sums_BK


def _within(
    tile: Tile, banned: tuple[np.ndarray, np.ndarray], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(user, column in the tile) of what is banned there."""
    user, place = banned
    here = (place >= tile.first) & (place < tile.first + tile.size)
    return torch.from_numpy(user[here]).to(device), torch.from_numpy(place[here] - tile.first).to(
        device
    )


def _stretch(columns_n: Tensor) -> Tensor | slice:
    """The same ascending columns, as a slice where none is left out between them: nothing is copied to write them."""
    first = int(columns_n[0])
    last = int(columns_n[-1])
    return slice(first, last + 1) if last - first + 1 == len(columns_n) else columns_n


def _scores(query_Bpd: Tensor, vectors_nd: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Scores of some of the vectors at a time: which, and [B, p, n]."""
    users, paths, dim = query_Bpd.shape
    tiles = max(1, -(-users // _USERS))
    padded = F.pad(query_Bpd, (0, 0, 0, 0, 0, tiles * _USERS - users))
    few = padded.reshape(tiles, _USERS * paths, dim)
    for start in range(0, len(vectors_nd), _COLUMNS):
        chunk = vectors_nd[start : start + _COLUMNS]
        columns = F.pad(chunk, (0, 0, 0, _COLUMNS - len(chunk))).T
        scores = torch.stack([part @ columns for part in few])
        yield (
            slice(start, start + len(chunk)),
            scores.view(-1, paths, _COLUMNS)[:users, :, : len(chunk)],
        )
