"""Top-k of the whole catalogue for a batch of users, group by group, fused over heads (paper 3.5; see `Fusion`).

    s_k(i) = q_k . e_i + b_k for i in Omega_k (Eq. 3), -inf elsewhere; the bias b_k is a user's own for each path

Every rank scores the items of its own rows for the users of all ranks; a running top-k is kept, and the ranks' lists
are merged. Only [users, tile] scores exist at a time. A candidate is one 64-bit key that orders by score, then by row
id, so the answer does not depend on tiles, shards or ranks.

Shapes: B users, K paths, k results, W ranks.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.across_ranks import exchange, gather_rows
from torchrec_priors.retrieval.best_items import BestItems, pairs
from torchrec_priors.retrieval.fused_search import log_sums, search_fused
from torchrec_priors.retrieval.fusion import Fusion, fuse_reference
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised, search_int8, takes
from torchrec_priors.retrieval.keys import NOTHING, row_of, score_of
from torchrec_priors.retrieval.max_search import search_max


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
    keys_W = []
    paths_W = []
    everyones = list(
        zip(
            _everyones(queries),
            _everyones_exclusions(excluded, queries.bias_BK.device),
            strict=True,
        )
    )
    largest = max(len(theirs) for theirs, _ in everyones)
    for theirs, exclusions in everyones:
        keys, paths = _search_own_rows(index, score, theirs, exclusions, k, fusion, quantised)
        keys_W.append(F.pad(keys, (0, 0, 0, largest - len(keys)), value=NOTHING))
        paths_W.append(F.pad(paths, (0, 0, 0, largest - len(paths))))
    keys_WBk = exchange(torch.stack(keys_W))
    paths_WBk = exchange(torch.stack(paths_W))
    mine = len(queries)
    keys = keys_WBk[:, :mine].transpose(0, 1).flatten(1)
    paths = paths_WBk[:, :mine].transpose(0, 1).flatten(1)
    best, place = keys.topk(k, dim=1)
    return _decode(best, paths.gather(1, place))


def log_normalisers(
    index: GroupIndex, score: Score, queries: Queries, excluded: Exclusions | None = None
) -> Tensor:
    """log sum over i in Omega_k of exp(q_k . e_i), over the rows of all ranks: [B, K], 0 for paths that are closed or
    without any i. Every rank must call it.

    Over a sample of the rows (`GroupIndex.sample`) it is an estimate, unbiased before the logarithm.

    Summed in double precision and rounded once, so that it hardly ever depends on the order of rows or ranks.

    Args:
        excluded: items that a user's sums are without, or None.
    """
    if dist.get_world_size() == 1:
        sums_BK = _own_log_sums(index, score, queries, excluded)
    else:
        everyones = list(
            zip(
                _everyones(queries),
                _everyones_exclusions(excluded, queries.bias_BK.device),
                strict=True,
            )
        )
        largest = max(len(theirs) for theirs, _ in everyones)
        sums = [_own_log_sums(index, score, theirs, exclusions) for theirs, exclusions in everyones]
        sums_WBK = exchange(
            torch.stack([F.pad(part, (0, 0, 0, largest - len(part))) for part in sums])
        )
        sums_BK = torch.logsumexp(sums_WBK[:, : len(queries)], 0)
    return sums_BK.float().masked_fill(
        torch.isneginf(queries.bias_BK) | torch.isneginf(sums_BK), 0.0
    )


def _own_log_sums(
    index: GroupIndex, score: Score, queries: Queries, excluded: Exclusions | None
) -> Tensor:
    """Over this rank's rows."""
    banned = None if excluded is None else _banned(index, excluded)
    return log_sums(index, score, queries.vector_BKd, queries.bias_BK, banned)


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
    return Found(
        order.masked_fill(gone, -1), score.masked_fill(gone, -torch.inf), path_BV.gather(1, order)
    )


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
    excluded = (
        Exclusions.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
        if excluded is None
        else excluded
    )
    if fusion.kind == "max":
        return _search_max(index, score, queries, excluded, k, quantised)
    open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
    return search_fused(index, score, open_S, _banned(index, excluded), k, fusion)


def _banned(index: GroupIndex, excluded: Exclusions) -> tuple[np.ndarray, np.ndarray]:
    """Users, and places among this rank's candidates, of what is excluded."""
    own, place = index.places(excluded.row)
    return excluded.user[own], place


def _search_max(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions,
    k: int,
    quantised: Quantised | None,
) -> tuple[Tensor, Tensor]:
    device = queries.bias_BK.device
    open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
    if quantised is not None and not takes(open_S):
        quantised = None
    once = len(open_S) == 1 and (
        quantised is None or open_S[0].path_Bp.shape[1] == 1
    )  # bytes leave several paths
    best = BestItems(
        len(queries), k, pairs(excluded.user, excluded.row, device), device, offered_once=once
    )
    if quantised is not None:
        search_int8(index, score, quantised, open_S, best)
    else:
        search_max(index, score, open_S, best)
    keys_Bk, path_Bk = best.result()
    return keys_Bk, path_Bk.int()


def _decode(keys: Tensor, paths: Tensor) -> Found:
    return Found(row_of(keys), score_of(keys), paths.long())


def _everyones(queries: Queries) -> list[Queries]:
    """Queries of every rank's users."""
    return [
        Queries(*parts)
        for parts in zip(*map(gather_rows, (queries.vector_BKd, queries.bias_BK)), strict=True)
    ]


def _everyones_exclusions(
    excluded: Exclusions | None, device: torch.device
) -> list[Exclusions | None]:
    if excluded is None:
        return [None] * dist.get_world_size()
    pairs = torch.from_numpy(np.stack([excluded.user, excluded.row], 1)).to(device)
    arrays = [pair.cpu().numpy() for pair in gather_rows(pairs)]
    return [Exclusions(pair[:, 0], pair[:, 1]) for pair in arrays]
