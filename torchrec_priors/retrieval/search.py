"""Top-k of the whole catalogue for a batch of users, group by group, with max fusion (paper 3.5).

    S(i) = max over paths k with i in Omega_k of q_k . e_i + b_k

Every rank scores its own rows for the users of all ranks; a running top-k is kept, and the ranks' lists are merged.
Only [users, tile] scores exist at a time. A candidate is one 64-bit key that orders by score, then by row id, so the
answer does not depend on tiles, shards or ranks. b_k is a bias of the user's: -inf for a path that must not serve them.

Shapes: B users, K paths, k results, W ranks.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.group_index import GroupIndex

# Scores are computed in products of one shape, so that a score does not depend on which other rows or users stand
# beside it.
_COLUMNS = 512
_USERS = 16
_LOW = (1 << 32) - 1
_NOTHING = -(1 << 63)


@dataclass(frozen=True)
class Found:
    """Best items of each user, best first.

    Attributes:
        row_Bk: int64 row ids; -1 where there are fewer than k items.
        score_Bk: fused scores.
        path_Bk: the path that gave each score.
    """

    row_Bk: Tensor
    score_Bk: Tensor
    path_Bk: Tensor


@dataclass(frozen=True)
class Exclusions:
    """Items that must not be recommended, as (user in batch, row id) pairs."""

    user: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, lengths: np.ndarray) -> "Exclusions":
        return cls(np.repeat(np.arange(len(lengths)), lengths), items)


def search(
    index: GroupIndex,
    score: Score,
    query_BKd: Tensor,
    excluded: Exclusions | None,
    k: int,
    bias_BK: Tensor | None = None,
) -> Found:
    """Top-k for this rank's users over the rows of all ranks. Every rank must call it; batches may differ in size.

    Args:
        index: of this rank's rows.
        score: turns stored vectors into factors.
        query_BKd: queries of every path, as `Recommender.queries` gives them.
        excluded: items to leave out (seen ones), or None.
        k: results a user.
        bias_BK: added to the scores of each user's paths; None on all ranks or on none.
    """
    if dist.get_world_size() == 1:
        keys, paths = _search_own_rows(index, score, query_BKd, excluded, k, bias_BK)
        return _decode(keys, paths)
    keys_W, paths_W = [], []
    everyones = _everyones(query_BKd, excluded, bias_BK)
    largest = max(len(queries) for queries, *_ in everyones)
    for queries, exclusions, biases in everyones:
        keys, paths = _search_own_rows(index, score, queries, exclusions, k, biases)
        keys_W.append(F.pad(keys, (0, 0, 0, largest - len(keys)), value=_NOTHING))
        paths_W.append(F.pad(paths, (0, 0, 0, largest - len(paths))))
    keys_WBk, paths_WBk = _exchange(torch.stack(keys_W)), _exchange(torch.stack(paths_W))
    mine = len(query_BKd)
    keys = keys_WBk[:, :mine].transpose(0, 1).flatten(1)
    paths = paths_WBk[:, :mine].transpose(0, 1).flatten(1)
    best, place = keys.topk(k, dim=1)
    return _decode(best, paths.gather(1, place))


def search_reference(
    table_Vd: Tensor,
    eligible_KV: Tensor,
    query_BKd: Tensor,
    excluded: Exclusions | None,
    k: int,
    bias_BK: Tensor | None = None,
) -> Found:
    """The definition, with all scores at once: Eq. 3's mask, max over paths, stable sort."""
    score_BKV = query_BKd @ table_Vd.T
    score_BKV = score_BKV if bias_BK is None else score_BKV + bias_BK[:, :, None]
    score_BKV = torch.where(eligible_KV, score_BKV, -torch.inf)
    score_BV, path_BV = score_BKV.max(1)
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
    query_BKd: Tensor,
    excluded: Exclusions | None,
    k: int,
    bias_BK: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Best keys of this rank's rows and their paths: [B, k], padded with `_NOTHING`."""
    users, device = len(query_BKd), query_BKd.device
    best = torch.full((users, k), _NOTHING, dtype=torch.int64, device=device)
    path = torch.zeros((users, k), dtype=torch.int32, device=device)
    for tile in index.tiles():
        score_BT = torch.full((users, tile.size), -torch.inf, device=device)
        path_BT = torch.zeros((users, tile.size), dtype=torch.int32, device=device)
        start = tile.first - index.shard.first
        vectors = score.items(index.shard.rows[start : start + tile.size])
        for number, columns in tile.columns:
            paths = index.paths_of_set[number]
            bias_Bp = None if bias_BK is None else bias_BK[:, paths]
            value, winner = _best_path(query_BKd[:, paths], vectors[columns], bias_Bp)
            current = score_BT[:, columns]
            better = value > current
            score_BT[:, columns] = torch.where(better, value, current)
            path_BT[:, columns] = torch.where(better, winner.int() + paths.start, path_BT[:, columns])
        if excluded is not None:
            here = (excluded.row >= tile.first) & (excluded.row < tile.first + tile.size)
            user = torch.from_numpy(excluded.user[here]).to(device)
            banned = torch.from_numpy(excluded.row[here] - tile.first).to(device)
            score_BT[user, banned] = -torch.inf
        keys_BT = _encode(score_BT, tile.first)
        tile_best, column = keys_BT.topk(min(k, tile.size), dim=1)
        candidates = torch.cat([best, tile_best], 1)
        candidate_paths = torch.cat([path, path_BT.gather(1, column)], 1)
        best, place = candidates.topk(k, dim=1)
        path = candidate_paths.gather(1, place)
    return best, path


def _best_path(query_Bpd: Tensor, vectors_nd: Tensor, bias_Bp: Tensor | None) -> tuple[Tensor, Tensor]:
    """Largest score over a set's paths and which path gave it: [B, n] each."""
    users, paths, dim = query_Bpd.shape
    tiles = max(1, -(-users // _USERS))
    padded = F.pad(query_Bpd, (0, 0, 0, 0, 0, tiles * _USERS - users))
    few = padded.reshape(tiles, _USERS * paths, dim)
    values, winners = [], []
    for start in range(0, len(vectors_nd), _COLUMNS):
        chunk = vectors_nd[start : start + _COLUMNS]
        columns = F.pad(chunk, (0, 0, 0, _COLUMNS - len(chunk))).T
        scores = torch.stack([part @ columns for part in few])
        scores = scores.view(-1, paths, _COLUMNS)[:users, :, : len(chunk)]
        value, winner = (scores if bias_Bp is None else scores + bias_Bp[:, :, None]).max(1)
        values.append(value)
        winners.append(winner)
    return torch.cat(values, 1), torch.cat(winners, 1)


def _encode(score_BT: Tensor, first: int) -> Tensor:
    """Keys whose order is (score descending, row ascending), largest first; `_NOTHING` for -inf."""
    bits = (score_BT + 0.0).view(torch.int32)  # -0.0 becomes 0.0, its equal
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    row_T = torch.arange(first, first + score_BT.shape[1], device=score_BT.device)
    keys = (ordered << 32) + (_LOW - row_T)
    return keys.masked_fill(torch.isneginf(score_BT), _NOTHING)


def _decode(keys: Tensor, paths: Tensor) -> Found:
    nothing = keys == _NOTHING
    ordered = (keys >> 32).int()
    score = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32)
    row = _LOW - (keys & _LOW)
    return Found(row.masked_fill(nothing, -1), score.masked_fill(nothing, -torch.inf), paths.long())


def _everyones(
    query_BKd: Tensor, excluded: Exclusions | None, bias_BK: Tensor | None
) -> list[tuple[Tensor, Exclusions | None, Tensor | None]]:
    """Queries, exclusions and biases of every rank's users."""
    queries = _gather_rows(query_BKd)
    biases = [None] * len(queries) if bias_BK is None else _gather_rows(bias_BK)
    if excluded is None:
        return [(query, None, bias) for query, bias in zip(queries, biases, strict=True)]
    pairs = torch.from_numpy(np.stack([excluded.user, excluded.row], 1)).to(query_BKd.device)
    arrays = [pair.cpu().numpy() for pair in _gather_rows(pairs)]
    exclusions = [Exclusions(pair[:, 0], pair[:, 1]) for pair in arrays]
    return list(zip(queries, exclusions, biases, strict=True))


def _gather_rows(rows: Tensor) -> list[Tensor]:
    """Every rank's rows, whose numbers may differ."""
    world = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(sizes))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def _exchange(sent_WBk: Tensor) -> Tensor:
    """Row w goes to rank w; row w of the answer came from rank w."""
    received = torch.empty_like(sent_WBk)
    dist.all_to_all_single(received, sent_WBk)
    return received
