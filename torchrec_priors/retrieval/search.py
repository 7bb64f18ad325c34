"""Top-k of the whole catalogue for a batch of users, group by group, fused over heads (paper 3.5; see `Fusion`).

    s_k(i) = q_k . e_i + b_k for i in Omega_k (Eq. 3), -inf elsewhere; the bias b_k is a user's own for each path

Every rank scores the items of its own rows for the users of all ranks; a running top-k is kept, and the ranks' lists
are merged. Only [users, tile] scores exist at a time. A candidate is one 64-bit key that orders by score, then by row
id, so the answer does not depend on tiles, shards or ranks.

Shapes: B users, K paths, k results, W ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.across_ranks import exchange, gather_rows
from torchrec_priors.retrieval.best_items import BestItems, pairs
from torchrec_priors.retrieval.fusion import Fusion, fuse_reference
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised, search_int8, takes
from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of
from torchrec_priors.retrieval.max_search import search_max
from torchrec_priors.retrieval.open_paths import OpenPaths, open_paths

# Scores are computed in products of one shape, so that a score does not depend on which other rows or users stand
# beside it.
_COLUMNS = 512
_USERS = 16


@dataclass(frozen=True)
class Found:
    """Best items of each user, best first.

    Attributes:
        row_Bk: int64 row ids; -1 where there are fewer than k items.
        score_Bk: fused scores; they descend unless lists were made diverse.
        path_Bk: the path that gave each score, or most of it.
    """

    row_Bk: Tensor
    score_Bk: Tensor
    path_Bk: Tensor

    def first(self, k: int) -> "Found":
        return Found(self.row_Bk[:, :k], self.score_Bk[:, :k], self.path_Bk[:, :k])


@dataclass(frozen=True)
class Exclusions:
    """Items that must not be recommended, as (user in batch, row id) pairs."""

    user: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, lengths: np.ndarray) -> "Exclusions":
        return cls(np.repeat(np.arange(len(lengths)), lengths), items)


@dataclass(frozen=True)
class Queries:
    """What a batch of users asks for.

    Attributes:
        vector_BKd: query of every path, scaled and normalised for scoring.
        bias_BK: added to every score of a path; -inf where the user may not use it.
    """

    vector_BKd: Tensor
    bias_BK: Tensor

    def __len__(self) -> int:
        return len(self.bias_BK)

    def within(self, open_BK: Tensor) -> "Queries":
        """The same, with the paths that are not open closed."""
        return Queries(self.vector_BKd, self.bias_BK.masked_fill(~open_BK, -torch.inf))

    @classmethod
    def unbiased(cls, vector_BKd: Tensor) -> "Queries":
        return cls(vector_BKd, vector_BKd.new_zeros(vector_BKd.shape[:2]))


def search(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions | None,
    k: int,
    fusion: Fusion = Fusion(),
    quantised: Quantised | None = None,
) -> Found:
    """Top-k for this rank's users over the rows of all ranks. Every rank must call it; batches may differ in size.

    Args:
        index: of this rank's rows.
        score: turns stored vectors into factors.
        queries: of every path.
        excluded: items to leave out (seen ones), or None.
        k: results a user.
        fusion: of the heads' scores.
        quantised: bytes of the index's rows, for a faster search of what the rows give; used where the fusion is the
            max of plain products.
    """
    if dist.get_world_size() == 1:
        keys, paths = _search_own_rows(index, score, queries, excluded, k, fusion, quantised)
        return _decode(keys, paths)
    keys_W, paths_W = [], []
    everyones = list(zip(_everyones(queries), _everyones_exclusions(excluded, queries.bias_BK.device), strict=True))
    largest = max(len(theirs) for theirs, _ in everyones)
    for theirs, exclusions in everyones:
        keys, paths = _search_own_rows(index, score, theirs, exclusions, k, fusion, quantised)
        keys_W.append(F.pad(keys, (0, 0, 0, largest - len(keys)), value=NOTHING))
        paths_W.append(F.pad(paths, (0, 0, 0, largest - len(paths))))
    keys_WBk, paths_WBk = exchange(torch.stack(keys_W)), exchange(torch.stack(paths_W))
    mine = len(queries)
    keys = keys_WBk[:, :mine].transpose(0, 1).flatten(1)
    paths = paths_WBk[:, :mine].transpose(0, 1).flatten(1)
    best, place = keys.topk(k, dim=1)
    return _decode(best, paths.gather(1, place))


def log_normalisers(index: GroupIndex, score: Score, queries: Queries) -> Tensor:
    """log sum over i in Omega_k of exp(q_k . e_i), over the rows of all ranks: [B, K], 0 for paths that are closed.
    Every rank must call it.

    Over a sample of the rows (`GroupIndex.sample`) it is an estimate, unbiased before the logarithm.

    Summed in double precision and rounded once, so that it hardly ever depends on the order of rows or ranks.
    """
    if dist.get_world_size() == 1:
        sums_BK = _log_sums(index, score, queries)
    else:
        everyones = _everyones(queries)
        largest = max(len(theirs) for theirs in everyones)
        sums = [_log_sums(index, score, theirs) for theirs in everyones]
        sums_WBK = exchange(torch.stack([F.pad(part, (0, 0, 0, largest - len(part))) for part in sums]))
        sums_BK = torch.logsumexp(sums_WBK[:, : len(queries)], 0)
    return sums_BK.float().masked_fill(torch.isneginf(queries.bias_BK), 0.0)


def search_reference(
    table_Vd: Tensor,
    eligible_KV: Tensor,
    queries: Queries,
    excluded: Exclusions | None,
    k: int,
    fusion: Fusion = Fusion(),
    alternatives_KV: Tensor | None = None,
) -> Found:
    """The definition, with all scores at once: Eq. 3's mask, the fusion item by item, stable sort.

    Args:
        alternatives_KV: c(i) of each path's items; 1 by default.
    """
    score_BKV = queries.vector_BKd @ table_Vd.T + queries.bias_BK[..., None]
    score_BKV = torch.where(eligible_KV, score_BKV, -torch.inf)
    alternatives_KV = torch.ones(eligible_KV.shape) if alternatives_KV is None else alternatives_KV
    score_BV = torch.full((len(queries), len(table_Vd)), -torch.inf)
    path_BV = torch.zeros((len(queries), len(table_Vd)), dtype=torch.int64)
    for user in range(len(queries)):
        for row in range(len(table_Vd)):
            value, path = fuse_reference(score_BKV[user, :, row], alternatives_KV[:, row], fusion)
            score_BV[user, row], path_BV[user, row] = value, path
    if excluded is not None:
        score_BV[torch.from_numpy(excluded.user), torch.from_numpy(excluded.row)] = -torch.inf
    order = torch.argsort(score_BV, dim=1, descending=True, stable=True)[:, :k]
    order = F.pad(order, (0, max(0, k - order.shape[1])))
    score = score_BV.gather(1, order)
    gone = torch.isneginf(score)
    gone[:, table_Vd.shape[0] :] = True
    return Found(order.masked_fill(gone, -1), score.masked_fill(gone, -torch.inf), path_BV.gather(1, order))


def _search_own_rows(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions | None,
    k: int,
    fusion: Fusion,
    quantised: Quantised | None,
) -> tuple[Tensor, Tensor]:
    """Best keys of this rank's rows and their paths: [B, k], padded with `NOTHING`."""
    excluded = Exclusions.of(np.zeros(0, np.int64), np.zeros(0, np.int64)) if excluded is None else excluded
    if fusion.kind == "max":
        return _search_max(index, score, queries, excluded, k, quantised)
    return _search_fused(index, score, queries, excluded, k, fusion)


def _search_max(
    index: GroupIndex, score: Score, queries: Queries, excluded: Exclusions, k: int, quantised: Quantised | None
) -> tuple[Tensor, Tensor]:
    device = queries.bias_BK.device
    open_S = _open_paths(index, queries)
    if not takes(open_S):
        quantised = None
    once = len(open_S) == 1 and (quantised is None or open_S[0].path_Bp.shape[1] == 1)  # bytes leave several paths
    best = BestItems(len(queries), k, pairs(excluded.user, excluded.row, device), device, offered_once=once)
    if quantised is not None:
        search_int8(index, score, quantised, open_S, best)
    else:
        search_max(index, score, open_S, best)
    keys_Bk, path_Bk = best.result()
    return keys_Bk, path_Bk.int()


def _search_fused(
    index: GroupIndex, score: Score, queries: Queries, excluded: Exclusions, k: int, fusion: Fusion
) -> tuple[Tensor, Tensor]:
    """Whatever the fusion: scores of a tile's items by all paths, fused item by item."""
    users, device = len(queries), queries.bias_BK.device
    best = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
    path = torch.zeros((users, k), dtype=torch.int32, device=device)
    own, banned_place = index.places(excluded.row)
    banned_user = excluded.user[own]
    open_S = _open_paths(index, queries)
    for tile in index.tiles():
        vectors, last = score.items(index.vectors(tile)), tile.first + tile.size
        fused = fusion.accumulator(users, index.log_alternatives_RT[:, tile.first : last])
        for number, columns in tile.columns:
            paths = open_S[number]
            for part, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                fused.add(_stretch(columns[part]), score_Bpn + paths.bias_Bp[..., None], paths.path_Bp)
        score_BT, path_BT = fused.result()
        here = (banned_place >= tile.first) & (banned_place < last)
        if here.any():
            user = torch.from_numpy(banned_user[here]).to(device)
            score_BT[user, torch.from_numpy(banned_place[here] - tile.first).to(device)] = -torch.inf
        keys_BT = encode(score_BT, index.item_C[tile.first : last])
        tile_best, column = keys_BT.topk(min(k, tile.size), dim=1)
        candidates = torch.cat([best, tile_best], 1)
        candidate_paths = torch.cat([path, path_BT.gather(1, column)], 1)
        best, place = candidates.topk(k, dim=1)
        path = candidate_paths.gather(1, place)
    return best, path


def _open_paths(index: GroupIndex, queries: Queries) -> list[OpenPaths]:
    """For each item set."""
    return [
        open_paths(queries.vector_BKd, queries.bias_BK, paths, most)
        for paths, most in zip(index.paths_of_set, index.most_open_S, strict=True)
    ]


def _log_sums(index: GroupIndex, score: Score, queries: Queries) -> Tensor:
    """`log_normalisers` over this rank's rows alone, in double precision; closed paths may be left out."""
    bias_BK = queries.bias_BK
    sums_BK = torch.full(bias_BK.shape, -torch.inf, dtype=torch.float64, device=bias_BK.device)
    open_S = _open_paths(index, queries)
    for tile in index.tiles():
        vectors = score.items(index.vectors(tile))
        for number, columns in tile.columns:
            paths = open_S[number]
            for _, score_Bpn in _scores(paths.vector_Bpd, vectors[columns]):
                part = torch.logsumexp(score_Bpn.double(), 2) + index.log_weight_S[number]
                sums_BK.scatter_(1, paths.path_Bp, torch.logaddexp(sums_BK.gather(1, paths.path_Bp), part))
    return sums_BK


def _stretch(columns_n: Tensor) -> Tensor | slice:
    """The same ascending columns, as a slice where none is left out between them: nothing is copied to write them."""
    first, last = int(columns_n[0]), int(columns_n[-1])
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
        yield slice(start, start + len(chunk)), scores.view(-1, paths, _COLUMNS)[:users, :, : len(chunk)]


def _decode(keys: Tensor, paths: Tensor) -> Found:
    return Found(row_of(keys), score_of(keys), paths.long())


def _everyones(queries: Queries) -> list[Queries]:
    """Queries of every rank's users."""
    return [Queries(*parts) for parts in zip(*map(gather_rows, (queries.vector_BKd, queries.bias_BK)), strict=True)]


def _everyones_exclusions(excluded: Exclusions | None, device: torch.device) -> list[Exclusions | None]:
    if excluded is None:
        return [None] * dist.get_world_size()
    pairs = torch.from_numpy(np.stack([excluded.user, excluded.row], 1)).to(device)
    arrays = [pair.cpu().numpy() for pair in gather_rows(pairs)]
    return [Exclusions(pair[:, 0], pair[:, 1]) for pair in arrays]
