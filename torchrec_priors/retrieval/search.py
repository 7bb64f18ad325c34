"""Top-k of the whole catalogue for a batch of users, group by group, fused over heads (paper 3.5).

    s_k(i) = q_k . e_i + b_k for i in Omega_k (Eq. 3), -inf elsewhere

The bias b_k differs by user and path; `Fusion` says how the scores of an item become one.

Every rank scores the items of its own rows for the users of all ranks and keeps a running top-k;
then the ranks' lists are merged (`across_ranks.py`). Only [users, tile] scores exist at a time. A
candidate is one 64-bit key that orders by score, then by row id, so the answer does not depend on
tiles, shards or ranks.

    search
        answers_of_all_ranks      sends the queries of all ranks to every rank
            _search_own_rows      on each rank, for the users of each rank in turn
                search_int8       max fusion, with copies of the vectors in 8 bits
                search_max        max fusion
                search_fused      any other fusion
        merge_best                the best of all ranks' answers, for this rank's users

Shapes: B users, K paths, V items, k results.
"""

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.across_ranks import answers_of_all_ranks, merge_best
from torchrec_priors.retrieval.best_items import BestItems, pairs
from torchrec_priors.retrieval.fused_search import log_sums, search_fused
from torchrec_priors.retrieval.fusion import Fusion, fuse_reference
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised, has_plain_scores, search_int8
from torchrec_priors.retrieval.keys import NOTHING, row_of, score_of
from torchrec_priors.retrieval.max_search import search_max
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries


def search(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions | None,
    k: int,
    fusion: Fusion = Fusion(),
    quantised: Quantised | None = None,
) -> Found:
    """Top-k for this rank's users over the rows of all ranks.

    Every rank must call it; batches may differ in size.

    Args:
        index: index over this rank's rows.
        score: turns stored vectors into factors.
        queries: query of every path.
        excluded: items to leave out (seen ones), or None.
        k: results per user.
        fusion: how the heads' scores are fused.
        quantised: int8 copies of the index's rows, for a faster search with the same results; used
            if the fusion is max and scores are plain dot products.
    """

    def search_own_rows(queries: Queries, excluded: Exclusions | None) -> tuple[Tensor, Tensor]:
        return _search_own_rows(index, score, queries, excluded, k, fusion, quantised)

    if dist.get_world_size() == 1:
        keys_Bk, path_Bk = search_own_rows(queries, excluded)
    else:
        keys_WBk, path_WBk = answers_of_all_ranks(
            search_own_rows, queries, excluded, fills=(NOTHING, 0)
        )
        keys_Bk, path_Bk = merge_best(keys_WBk, path_WBk, k)
    return Found(row_of(keys_Bk), score_of(keys_Bk), path_Bk.long())


def log_normalisers(
    index: GroupIndex, score: Score, queries: Queries, excluded: Exclusions | None = None
) -> Tensor:
    """log sum over i in Omega_k of exp(q_k . e_i), over the rows of all ranks: [B, K].

    It is 0 for paths that are closed or have no items. Over a sample of the rows
    (`GroupIndex.sample`) it is an estimate, unbiased before the logarithm. Every rank must call it.

    Summed in double precision and rounded once, so it hardly ever depends on the order of rows or
    ranks.

    Args:
        excluded: items that are left out of a user's sums, or None.
    """

    def sum_own_rows(queries: Queries, excluded: Exclusions | None) -> tuple[Tensor]:
        banned = None if excluded is None else _own_places(index, excluded)
        return (log_sums(index, score, queries.vector_BKd, queries.bias_BK, banned),)

    if dist.get_world_size() == 1:
        (sums_BK,) = sum_own_rows(queries, excluded)
    else:
        (sums_WBK,) = answers_of_all_ranks(sum_own_rows, queries, excluded, fills=(0,))
        sums_BK = torch.logsumexp(sums_WBK, 0)

    # 0 rather than -inf: the caller subtracts it from biases, and -inf minus -inf is NaN.
    undefined_BK = torch.isneginf(queries.bias_BK) | torch.isneginf(sums_BK)
    return sums_BK.float().masked_fill(undefined_BK, 0.0)


def search_reference(
    table_Vd: Tensor,
    eligible_KV: Tensor,
    queries: Queries,
    excluded: Exclusions | None,
    k: int,
    fusion: Fusion = Fusion(),
    alternatives_KV: Tensor | None = None,
) -> Found:
    """The definition, with all scores at once: Eq. 3's mask, fusion item by item, stable sort.

    Args:
        alternatives_KV: c(i) of each path's items; 1 by default.
    """
    score_BKV = queries.vector_BKd @ table_Vd.T + queries.bias_BK[..., None]
    score_BKV = torch.where(eligible_KV, score_BKV, -torch.inf)
    if alternatives_KV is None:
        alternatives_KV = torch.ones(eligible_KV.shape)

    # User by user and item by item: this is the definition, not the fast way.
    score_BV = torch.full((len(queries), len(table_Vd)), -torch.inf)
    path_BV = torch.zeros((len(queries), len(table_Vd)), dtype=torch.int64)
    for user in range(len(queries)):
        for row in range(len(table_Vd)):
            value, path = fuse_reference(score_BKV[user, :, row], alternatives_KV[:, row], fusion)
            score_BV[user, row] = value
            path_BV[user, row] = path
    if excluded is not None:
        score_BV[torch.from_numpy(excluded.user), torch.from_numpy(excluded.row)] = -torch.inf

    # Of equal scores the smaller row comes first, which a stable sort gives.
    order = torch.argsort(score_BV, dim=1, descending=True, stable=True)[:, :k]
    order = F.pad(order, (0, max(0, k - order.shape[1])))
    score = score_BV.gather(1, order)
    missing = torch.isneginf(score)
    missing[:, table_Vd.shape[0] :] = True
    return Found(
        order.masked_fill(missing, -1),
        score.masked_fill(missing, -torch.inf),
        path_BV.gather(1, order),
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
    if excluded is None:
        excluded = Exclusions(np.zeros(0, np.int64), np.zeros(0, np.int64))
    if fusion.kind == "max":
        return _search_max(index, score, queries, excluded, k, quantised)
    open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
    return search_fused(index, score, open_S, _own_places(index, excluded), k, fusion)


def _search_max(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions,
    k: int,
    quantised: Quantised | None,
) -> tuple[Tensor, Tensor]:
    """Max fusion need not keep all scores: only items that reach the user's current threshold are
    collected.
    """
    device = queries.bias_BK.device
    open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
    # The int8 search's error bound holds only for plain dot products.
    if quantised is not None and not has_plain_scores(open_S):
        quantised = None

    # With one item set no item is offered twice, except that the int8 search may offer it once per
    # path.
    offered_once = len(open_S) == 1
    if offered_once and quantised is not None:
        offered_once = open_S[0].path_Bp.shape[1] == 1
    banned = pairs(excluded.user, excluded.row, device)
    best = BestItems(len(queries), k, banned, device, offered_once=offered_once)

    if quantised is not None:
        search_int8(index, score, quantised, open_S, best)
    else:
        search_max(index, score, open_S, best)
    keys_Bk, path_Bk = best.result()
    return keys_Bk, path_Bk.int()


def _own_places(index: GroupIndex, excluded: Exclusions) -> tuple[np.ndarray, np.ndarray]:
    """Users, and places among this rank's candidates, of the excluded items that are there."""
    kept, place = index.places(excluded.row)
    return excluded.user[kept], place
