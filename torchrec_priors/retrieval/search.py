"""Finds each user's best items in the whole catalogue (section 3.5 of the paper).

For a user, the score of item i by head k is

    s_k(i) = q_k . e_i + b_k if i is in Omega_k (Eq. 3), otherwise -inf

Here q_k is the query of head k for this user, e_i the vector of the item, and Omega_k the set of
items that head k may retrieve. The bias b_k depends on the user and the head. With a bias of -inf
the head is not used for this user: its path is closed. `fusion.py` defines how the scores that an
item gets from several heads become one score.

Every rank scores the items in its own rows of the table for the users of all ranks, and keeps the
best items of each user. Then the lists of all ranks are merged (`across_ranks.py`). Items are
scored in pieces, so that only the scores of some items are in memory at a time. Items are ordered
by score, and by row id (the number of the item) if scores are equal. So the result does not depend
on how items are divided among ranks or into pieces.

    search
        answers_of_all_ranks      sends the queries of all ranks to every rank
            _search_own_rows      on each rank, for the users of each rank in turn
                search_int8       max fusion, with copies of the vectors in 8 bits
                search_max        max fusion
                search_tiles      max fusion on a GPU
                search_fused      any other fusion
                _with_repeats     adds items of the history, with the scores of the repeat head
        merge_best                the best of all ranks' answers, for this rank's users

Shapes: B users, K paths, V items, W ranks, k results for each user.
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
from torchrec_priors.retrieval.item_filter import Filters, distinct, of_users
from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of
from torchrec_priors.retrieval.max_search import search_max
from torchrec_priors.retrieval.resident import Resident
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
    *,
    resident: Resident | None = None,
    filters: Filters | None = None,
    threads: int = 1,
) -> Found:
    """Finds the k best items of all ranks for each of this rank's users.

    Every rank must call it. The batches of ranks may differ in size.

    Args:
        index: the candidates on this rank, i.e. the items in its rows that may be recommended.
        score: turns stored vectors into the vectors that scores are computed with.
        queries: the queries of all paths for each user.
        excluded: the items to leave out for each user, such as seen items; None for none.
        k: the number of items for each user.
        fusion: how the scores of an item are combined into one.
        quantised: int8 copies of the index's vectors; None for none. They are used if the fusion is
            max and no score has a bias. The search is then faster, and its results are the same.
        resident: the candidates of the index, packed in memory for the search kernel; None for
            none. If it is given, the kernel searches them, and `quantised` is ignored.
        filters: the items that may be found, for each user or for all; None for all items. If there
            is a filter for each user, all ranks must have the same users.
        threads: the most threads of the search kernel, which do not change the result.
    """

    # On a single rank no lists are merged. The kernel's answer is the result.
    is_alone = dist.get_world_size() == 1
    if is_alone and resident is not None and queries.repeats is None:
        return resident.find(queries, excluded or Exclusions.none(), filters, k, fusion, threads)

    def search_own_rows(queries: Queries, excluded: Exclusions | None) -> tuple[Tensor, Tensor]:
        excluded = excluded or Exclusions.none()
        if resident is None:
            return _search_filtered(index, score, queries, excluded, k, fusion, quantised, filters)

        keys_Bk, path_Bk = resident.search(queries, excluded, filters, k, fusion, threads)
        if queries.repeats is None:
            return keys_Bk, path_Bk
        repeats = _allowed(queries.repeats, filters, len(queries))
        paths = queries.bias_BK.shape[1]
        return _with_repeats(index, repeats, paths, keys_Bk, path_Bk)

    if is_alone:
        keys_Bk, path_Bk = search_own_rows(queries, excluded)
    else:
        keys_WBk, path_WBk = answers_of_all_ranks(
            search_own_rows, queries, excluded, fills=(NOTHING, 0)
        )
        keys_Bk, path_Bk = merge_best(keys_WBk, path_WBk, k)
    return Found(row_of(keys_Bk), score_of(keys_Bk), path_Bk.long())


def log_normalisers(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions | None = None,
    resident: Resident | None = None,
) -> Tensor:
    """Computes log sum exp(q_k . e_i) over the items i in Omega_k of all ranks.

    This is the logarithm of the denominator in the softmax of head k. Every rank must call this
    function. If the index is a sample (`GroupIndex.sample`), the sum is an unbiased estimate. Sums
    are in double precision and rounded once, so they hardly ever depend on the order of items or
    ranks.

    Args:
        index: the candidates on this rank.
        score: turns stored vectors into the vectors that scores are computed with.
        queries: the queries of all paths for each user. Biases are not used, except that a bias of
            -inf closes a path.
        excluded: the items to leave out of each user's sums; None for none.
        resident: the packed candidates of the index, if there are any.

    Returns:
        [B, K]; 0 for paths that are closed or have no items.
    """

    def sum_own_rows(queries: Queries, excluded: Exclusions | None) -> tuple[Tensor]:
        if resident is not None:
            return (resident.log_sums(queries, excluded),)
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
    """Searches directly from the definition, with all scores in memory, as a reference for tests.

    Args:
        table_Vd: the vectors that scores are computed with.
        eligible_KV: bool, whether a path may retrieve an item.
        queries, excluded, k, fusion: as for `search`.
        alternatives_KV: for each path and item, the number c_k(i) by which a fusion of calibrated
            scores divides (see `fusion.py`); 1 by default.
    """
    score_BKV = queries.vector_BKd @ table_Vd.T + queries.bias_BK[..., None]
    score_BKV = torch.where(eligible_KV, score_BKV, -torch.inf)
    if alternatives_KV is None:
        alternatives_KV = torch.ones(eligible_KV.shape)

    # A fusion is defined for one user and one item, so scores are fused one at a time.
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


def _search_filtered(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions,
    k: int,
    fusion: Fusion,
    quantised: Quantised | None,
    filters: Filters | None,
) -> tuple[Tensor, Tensor]:
    """Like `_search_own_rows`, but with filters: one search serves all users of a filter."""
    if filters is None:
        return _search_own_rows(index, score, queries, excluded, k, fusion, quantised)

    filter_of_user = of_users(filters, len(queries))
    item_C = index.item_C.cpu().numpy()
    keys_Bk = torch.full((len(queries), k), NOTHING, device=index.item_C.device)
    path_Bk = torch.zeros_like(keys_Bk, dtype=torch.int32)
    for users in distinct(filter_of_user).values():
        item_filter = filter_of_user[users[0]]
        allowed = index
        if not item_filter.is_empty:
            allowed = index.restricted(torch.from_numpy(item_filter.allows(item_C)))
        keys, paths = _search_own_rows(
            allowed, score, queries.of(users), excluded.of_users(users), k, fusion, quantised
        )
        keys_Bk[users] = keys
        path_Bk[users] = paths
    return keys_Bk, path_Bk


def _search_own_rows(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions,
    k: int,
    fusion: Fusion,
    quantised: Quantised | None,
) -> tuple[Tensor, Tensor]:
    """Finds the k best of this rank's items for each user.

    Returns:
        The keys (`keys.py`) and the paths of the items: [B, k] each. If a list has fewer than k
        items, its keys are padded with `NOTHING`.
    """
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
    """Adds repeats to the lists of best items, if they are candidates on this rank and good enough.

    Args:
        index: the candidates on this rank.
        repeats: items of the users' histories, with the scores that the repeat head gives them.
            None of them is in the lists yet.
        path: the number that stands for the repeat head in lists of paths.
        keys_Bk, path_Bk: the keys and paths of the best items that the prior heads found.
    """
    # Items that are in no item set must not be returned. This includes items that the request
    # denies, because they were removed from every set.
    device = keys_Bk.device
    found, position = index.places(repeats.row_R.cpu().numpy())
    allowed = index.in_a_set_C[torch.from_numpy(position).to(device)]
    kept_R = torch.from_numpy(found).to(device)[allowed]

    keys_R = encode(repeats.score_R[kept_R], repeats.row_R[kept_R])
    path_R = torch.full_like(keys_R, path, dtype=path_Bk.dtype)
    keys, paths = with_offers(keys_Bk, path_Bk, repeats.user_R[kept_R], keys_R, path_R)
    best_Bk, column_Bk = keys.topk(keys_Bk.shape[1], dim=1)
    return best_Bk, paths.gather(1, column_Bk)


def _allowed(repeats: Repeats, filters: Filters | None, users: int) -> Repeats:
    """Drops the repeats that the user's filter does not allow."""
    if filters is None:
        return repeats
    user_R = repeats.user_R.numpy()
    row_R = repeats.row_R.numpy()
    kept_R = np.ones(len(user_R), bool)
    for user, item_filter in enumerate(of_users(filters, users)):
        if not item_filter.is_empty:
            of_user = user_R == user
            kept_R[of_user] = item_filter.allows(row_R[of_user])
    kept = torch.from_numpy(kept_R)
    return Repeats(repeats.user_R[kept], repeats.row_R[kept], repeats.score_R[kept])


def _search_max(
    index: GroupIndex,
    score: Score,
    queries: Queries,
    excluded: Exclusions,
    k: int,
    quantised: Quantised | None,
) -> tuple[Tensor, Tensor]:
    """Does the same as `_search_own_rows` for max fusion, without repeats.

    It does not keep all scores. It collects only items that reach the user's current threshold, the
    k-th best score so far.
    """
    device = queries.bias_BK.device
    open_S = index.open_paths(queries.vector_BKd, queries.bias_BK)
    # The int8 search computes upper bounds of scores. They hold only if no score has a bias.
    if quantised is not None and not has_plain_scores(open_S):
        quantised = None

    # An item is offered to `BestItems` once for each item set that it is in. The int8 search may
    # also offer it once for each path.
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
    """Finds the excluded items that are candidates on this rank.

    Returns:
        The user of each such item, and the position of the item among the candidates.
    """
    kept, position = index.places(excluded.row)
    return excluded.user[kept], position
