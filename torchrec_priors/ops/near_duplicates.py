"""Hides negatives that are almost equal to a positive of their query.

With items that are described by texts, two items may be the same in all but their ids. As a
negative, such an item would teach that a right answer is wrong. So a negative is hidden from a
query if its cosine with one of the query's positives is above a threshold (HLLM: 0.99). Copies of
the positive itself are hidden, too, which the softmax leaves out in any case.

Shapes: P queries sorted by item set; M positives sorted by query; u distinct items of the
positives; n negatives in all, one set after another, the shared ones last; H pairs of a query and a
hidden negative.
"""

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import kind_of_device
from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.ranges import numbers, ranges
from torchrec_priors.ops.softmax_blocks import BLOCK


@torch.no_grad()
def hide_near_duplicates(
    query_counts_S: list[int] | QuerySets,
    positives: WeighedPositives,
    negatives: NegativeSets,
    threshold: float,
    hidden: Hidden | None = None,
) -> Hidden:
    """Returns the negatives that are hidden from every query.

    Args:
        query_counts_S: number of queries of each item set, or their sets on the device.
        positives: positives of the queries, with item vectors of length 1.
        negatives: the negatives of all queries, with vectors of length 1.
        threshold: negatives with a larger cosine are hidden.
        hidden: what is hidden for other reasons.
    """
    device = positives.id_M.device
    sets = query_counts_S
    if not isinstance(sets, QuerySets):
        sets = QuerySets.of(sets, device)
    queries = len(sets.set_P)
    size = max(len(negatives.ids_n), 1)
    in_sets = sum(negatives.counts_S)

    # The negative's item set; the shared negatives have the number after the last one.
    counts = torch.tensor([*negatives.counts_S, negatives.shared], device=device)
    set_n = numbers(counts, len(negatives.ids_n))
    item_u, negative_u = _alike(positives, negatives, threshold)

    # Each positive with an item hides the negatives like it, if they are in the query's pools.
    source_M, order_M = positives.source_M.sort(stable=True)
    first = torch.searchsorted(source_M, item_u)
    count = torch.searchsorted(source_M, item_u, right=True) - first
    pair, place = ranges(first, count)
    query_H = positives.query_M[order_M[place]]
    negative_H = negative_u[pair]
    in_pool_H = (set_n[negative_H] == sets.set_P[query_H]) | (negative_H >= in_sets)
    key_H = query_H[in_pool_H] * size + negative_H[in_pool_H]

    if hidden is not None:
        keys = [key_H]
        for first_P, count_P in zip(hidden.first_RP, hidden.count_RP, strict=True):
            query, index = ranges(first_P, count_P)
            keys.append(query * size + hidden.negative_H[index])
        key_H = torch.cat(keys)
    key_H = key_H.unique()

    # One list for each pool, sorted by query, so that what is hidden from a query is a range.
    is_shared_H = key_H % size >= in_sets
    pools = [key_H[~is_shared_H]]
    if negatives.shared:
        pools.append(key_H[is_shared_H])
    bounds = torch.arange(queries + 1, device=device) * size
    firsts = []
    counts_of = []
    before = 0
    for pool in pools:
        edge_P1 = torch.searchsorted(pool, bounds)
        firsts.append(edge_P1[:-1] + before)
        counts_of.append(edge_P1.diff())
        before += len(pool)
    # The copies of every positive are hidden.
    own_M = torch.ones_like(positives.id_M, dtype=torch.bool)
    return Hidden(torch.cat(pools) % size, torch.stack(firsts), torch.stack(counts_of), own_M)


def _alike(
    positives: WeighedPositives, negatives: NegativeSets, threshold: float
) -> tuple[Tensor, Tensor]:
    """Returns pairs of a positive's item (an index of item vectors) and a negative like it."""
    source_u, where = positives.source_M.unique(return_inverse=True)
    id_u = torch.empty_like(source_u)
    id_u[where] = positives.id_M

    found = [(source_u[:0], source_u[:0])]
    rows = max(1, BLOCK[kind_of_device(negatives.vectors_nd)] // max(len(negatives.ids_n), 1))
    for start in range(0, len(source_u), rows):
        part = source_u[start : start + rows]
        cosine_un = positives.item_Xd[part] @ negatives.vectors_nd.T
        own_un = id_u[start : start + rows, None] == negatives.ids_n
        row, negative = ((cosine_un > threshold) | own_un).nonzero(as_tuple=True)
        found.append((part[row], negative))
    item, negative = (torch.cat(parts) for parts in zip(*found, strict=True))
    return item, negative
