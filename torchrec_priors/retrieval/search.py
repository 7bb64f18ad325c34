"""Finds the k best items of the whole catalogue for a batch of users (section 3.5 of the paper).

Head k scores the items that it may retrieve; the bias b_k depends on the user and the head:

    s_k(i) = q_k . e_i + b_k for i in Omega_k (Eq. 3), -inf elsewhere

`fusion.py` defines how the scores that several heads give an item become one score.

Every rank scores the items of its own rows for the users of all ranks, and keeps the best of them.
Then the lists of the ranks are merged (`across_ranks.py`). Only the scores of some items are in
memory at a time. Items are ordered by score, and by row id if scores are equal. So the result does
not depend on how items are divided among ranks, or into tiles.

    search
        answers_of_all_ranks      sends the queries of all ranks to every rank
            _search_own_rows      on each rank, for the users of each rank in turn
                search_int8       max fusion, with copies of the vectors in 8 bits
                search_max        max fusion
                search_tiles      max fusion on a GPU
                search_fused      any other fusion
                _with_repeats     items of the history, with the scores of the repeat head
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
from torchrec_priors.retrieval.best_items import BestItems, pairs, with_offers
from torchrec_priors.retrieval.fused_search import log_sums, search_fused
from torchrec_priors.retrieval.fusion import Fusion, fuse_reference
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised, has_plain_scores, search_int8
from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of
from torchrec_priors.retrieval.max_search import search_max
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries, Repeats
from torchrec_priors.retrieval.tile_search import can_search, search_tiles


def search(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions | None,
    k: int,
    fusion: Fusion = Fusion(),
    quantised: Quantised | None = None,
) -> Found:
    """Finds the k best items of all ranks for each of this rank's users.

    Every rank must call it; the batches of ranks may differ in size.

    Args:
        index: the candidates on this rank.
        score: turns stored vectors into the vectors that scores are computed with.
        queries: the queries of all paths for each user.
        excluded: the items to leave out for each user, such as seen items; None for none.
        k: the number of items for each user.
        fusion: how the scores of an item are combined into one.
        quantised: int8 copies of the index's vectors. They are used if the fusion is max and scores
            are plain dot products. The search is then faster, and its results are the same.
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
    """Computes log sum exp(q_k . e_i) over the items i in Omega_k of all ranks.

    Every rank must call it. If the index is a sample (`GroupIndex.sample`), the sum is an unbiased
    estimate. Sums are in double precision and rounded once, so they hardly ever depend on the order
    of items or ranks.

    Args:
        index: the candidates on this rank.
        score: turns stored vectors into the vectors that scores are computed with.
        queries: the queries of all paths for each user. A bias of -inf closes a path; other biases
            are not used.
        excluded: the items to leave out of each user's sums; None for none.

    Returns:
        [B, K]; 0 for paths that are closed or have no items.
    """

    def sum_own_rows(queries: Queries, excluded: Exclusions | None) -> tuple[Tensor]:
        banned = None if excluded is None else _own_positions(index, excluded)
        return (log_sums(index, score, queries.vector_BKd, queries.bias_BK, banned),)

    if dist.get_world_size() == 1:
        (sums_BK,) = sum_own_rows(queries, excluded)
    else:
        (sums_WBK,) = answers_of_all_ranks(sum_own_rows, queries, excluded, fills=(0,))
        sums_BK = torch.logsumexp(sums_WBK, 0)

    # The caller subtracts the result from biases, and -inf minus -inf would be NaN.
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
    """Searches directly from the definition, with all scores in memory, as a test reference.

    Args:
        table_Vd: the vectors that scores are computed with.
        eligible_KV: bool, whether a path may retrieve an item.
        queries, excluded, k, fusion: as for `search`.
        alternatives_KV: for each item and path, the number c(i) by which calibrated fusion divides
            (see `fusion.py`); 1 by default.
    """
    score_BKV = queries.vector_BKd @ table_Vd.T + queries.bias_BK[..., None]
    score_BKV = torch.where(eligible_KV, score_BKV, -torch.inf)
    if alternatives_KV is None:
        alternatives_KV = torch.ones(eligible_KV.shape)

    # One user and one item at a time, as in the definition of a fusion.
    score_BV = torch.full((len(queries), len(table_Vd)), -torch.inf)
    path_BV = torch.zeros((len(queries), len(table_Vd)), dtype=torch.int64)
    for user in range(len(queries)):
        for row in range(len(table_Vd)):
            value, path = fuse_reference(score_BKV[user, :, row], alternatives_KV[:, row], fusion)
            score_BV[user, row] = value
            path_BV[user, row] = path
    if excluded is not None:
        score_BV[torch.from_numpy(excluded.user), torch.from_numpy(excluded.row)] = -torch.inf
    if queries.repeats is not None:
        place = (queries.repeats.user_R, queries.repeats.row_R)
        score_BV[place] = queries.repeats.score_R
        path_BV[place] = len(eligible_KV)

    # A stable sort puts the smaller row id first if scores are equal.
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
    """Finds the k best of this rank's items for each user.

    Returns:
        The keys of the items and their paths: [B, k] each. Keys of shorter lists are padded with
        `NOTHING`.
    """
    if excluded is None:
        excluded = Exclusions(np.zeros(0, np.int64), np.zeros(0, np.int64))
    if fusion.kind == "max" and can_search(score, queries):
        keys_Bk, path_Bk = search_tiles(index, score, queries, excluded, k)
    elif fusion.kind == "max":
        keys_Bk, path_Bk = _search_max(index, score, queries, excluded, k, quantised)
    else:
        open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
        banned = _own_positions(index, excluded)
        keys_Bk, path_Bk = search_fused(index, score, open_S, banned, k, fusion)

    if queries.repeats is None:
        return keys_Bk, path_Bk
    paths = queries.bias_BK.shape[1]
    return _with_repeats(index, queries.repeats, paths, keys_Bk, path_Bk)


def _with_repeats(
    index: GroupIndex, repeats: Repeats, path: int, keys_Bk: Tensor, path_Bk: Tensor
) -> tuple[Tensor, Tensor]:
    """Merges repeats that are candidates on this rank into the best items.

    Args:
        index: the candidates on this rank.
        repeats: the repeats. None of them is among the best items.
        path: the number of the repeats' path.
        keys_Bk, path_Bk: the best items of the other paths.
    """
    # Items in no item set must not be returned. (An item is in no set if, for example, the request
    # denies it.)
    device = keys_Bk.device
    found, position = index.places(repeats.row_R.cpu().numpy())
    allowed = index.in_a_set_C[torch.from_numpy(position).to(device)]
    kept_R = torch.from_numpy(found).to(device)[allowed]

    keys_R = encode(repeats.score_R[kept_R], repeats.row_R[kept_R])
    path_R = torch.full_like(keys_R, path, dtype=path_Bk.dtype)
    keys, paths = with_offers(keys_Bk, path_Bk, repeats.user_R[kept_R], keys_R, path_R)
    best_Bk, column_Bk = keys.topk(keys_Bk.shape[1], dim=1)
    return best_Bk, paths.gather(1, column_Bk)


def _search_max(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions,
    k: int,
    quantised: Quantised | None,
) -> tuple[Tensor, Tensor]:
    """Like `_search_own_rows`, for max fusion.

    Not all scores are kept: only items that reach a user's current threshold are collected.
    """
    device = queries.bias_BK.device
    open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
    # The upper bounds of the int8 search hold only for plain dot products.
    if quantised is not None and not has_plain_scores(open_S):
        quantised = None

    # With several item sets, an item is offered once for each of its sets. The int8 search may also
    # offer it once for each path.
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


def _own_positions(index: GroupIndex, excluded: Exclusions) -> tuple[np.ndarray, np.ndarray]:
    """Picks the excluded items that are candidates on this rank.

    Returns:
        The users of these items, and the positions of the items among the candidates.
    """
    kept, position = index.places(excluded.row)
    return excluded.user[kept], position
