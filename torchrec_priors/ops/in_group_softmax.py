"""-log of the in-group softmax (Eq. 7) over one positive and the negatives of its query.

    nll_m = -log( e^{s_m} / (e^{s_m} + sum_{j in negatives of its query, id_j != id_m} e^{s_j + shift_j}) )

A query has the negatives of its item set and those that all queries share. The sums over both are taken once per query
for all its positives; a positive's own id is then taken out of them. Logits are computed block by block, and again in
backward: nothing of size [queries, negatives] is kept.

Shapes: P queries sorted by item set, M positives, S item sets, n negatives in all, one set after another, those that
are shared last.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 21  # logits held at a time
_HEAVY = 256.0  # copies that weigh more than so many times their positive are left out of the sum, not subtracted


@dataclass(frozen=True)
class NegativeSets:
    """Negatives of every item set, and those that all queries share.

    Attributes:
        vectors_nd: what queries are multiplied with.
        ids_n: int64 row ids, ascending within a set and within those that are shared.
        counts_S: negatives of each set.
        shared: negatives of every query; with `counts_S` they add up to n.
        shifts_n: added to the negatives' logits, the same for all copies of an id in a set: -log(expected copies) makes
            the sum an unbiased estimate of the sum over all eligible items (logQ correction). None adds nothing and
            leaves Eq. 7 as it is.
    """

    vectors_nd: Tensor
    ids_n: Tensor
    counts_S: list[int]
    shared: int = 0
    shifts_n: Tensor | None = None


def in_group_nll_reference(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positive_Md: Tensor,
    positive_id_M: Tensor,
    query_of_M: Tensor,
    negatives: NegativeSets,
) -> Tensor:
    """The definition, positive by positive. Same arguments and result as `in_group_nll`."""
    set_P = [number for number, count in enumerate(query_counts_S) for _ in range(count)]
    starts = [sum(negatives.counts_S[:number]) for number in range(len(negatives.counts_S) + 1)]
    shared = list(range(starts[-1], starts[-1] + negatives.shared))
    losses = []
    for vector, row, query_row in zip(positive_Md, positive_id_M.tolist(), query_of_M.tolist(), strict=True):
        number = set_P[query_row]
        of_query = [*range(starts[number], starts[number + 1]), *shared]
        others = [j for j in of_query if negatives.ids_n[j] != row]
        score = query_Pd[query_row] @ vector
        logits = negatives.vectors_nd[others] @ query_Pd[query_row]
        if negatives.shifts_n is not None:
            logits = logits + negatives.shifts_n[others]
        losses.append(torch.logsumexp(torch.cat([score[None], logits]), 0) - score)
    return torch.stack(losses) if losses else query_Pd.new_zeros(0)


class _LogSumExp(torch.autograd.Function):
    """log sum_j exp(query . vector_j + shift_j) over the vectors of each query's block, without keeping the products.

    `hidden` is None, or each vector's id and the id that each query leaves out of its sum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_Pd: Tensor,
        vectors_nd: Tensor,
        shifts_n: Tensor | None,
        blocks: list[tuple[slice, slice]],
        hidden: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        out_P = query_Pd.new_empty(len(query_Pd))
        for rows, columns in blocks:
            out_P[rows] = torch.logsumexp(_logits(query_Pd, vectors_nd, shifts_n, hidden, rows, columns), 1)
        ctx.save_for_backward(query_Pd, vectors_nd, shifts_n, out_P)
        ctx.blocks, ctx.hidden = blocks, hidden
        return out_P

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        query_Pd, vectors_nd, shifts_n, out_P = ctx.saved_tensors
        finite_P = out_P.clamp(min=torch.finfo(out_P.dtype).min)  # where nothing is summed, no NaN
        grad_query_Pd = torch.zeros_like(query_Pd)
        grad_vectors_nd = torch.zeros_like(vectors_nd)
        for rows, columns in ctx.blocks:
            block = _logits(query_Pd, vectors_nd, shifts_n, ctx.hidden, rows, columns)
            block.sub_(finite_P[rows, None]).exp_().mul_(grads[0][rows, None])
            grad_query_Pd[rows] = block @ vectors_nd[columns]
            grad_vectors_nd[columns] += block.T @ query_Pd[rows]
        return grad_query_Pd, grad_vectors_nd, None, None, None


def _logits(
    query_Pd: Tensor,
    vectors_nd: Tensor,
    shifts_n: Tensor | None,
    hidden: tuple[Tensor, Tensor] | None,
    rows: slice,
    columns: slice,
) -> Tensor:
    block = query_Pd[rows] @ vectors_nd[columns].T
    if shifts_n is not None:
        block.add_(shifts_n[columns])
    if hidden is not None:
        ids_n, without_P = hidden
        block.masked_fill_(ids_n[columns] == without_P[rows, None], -math.inf)
    return block


def _blocks(queries_S: list[int], vectors_S: list[int]) -> list[tuple[slice, slice]]:
    """Blocks of queries of one set against all vectors of the set."""
    blocks, first_query, first_vector = [], 0, 0
    for queries, vectors in zip(queries_S, vectors_S, strict=True):
        step = max(1, _BLOCK // max(vectors, 1))
        for start in range(0, queries, step):
            rows = slice(first_query + start, first_query + min(start + step, queries))
            blocks.append((rows, slice(first_vector, first_vector + vectors)))
        first_query, first_vector = first_query + queries, first_vector + vectors
    return blocks


def in_group_nll(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positive_Md: Tensor,
    positive_id_M: Tensor,
    query_of_M: Tensor,
    negatives: NegativeSets,
) -> Tensor:
    """Negative log-likelihood of every positive among the negatives of its query.

    Args:
        query_Pd: queries, sorted by item set; temperature and normalisation already applied.
        query_counts_S: queries of each set.
        positive_Md: vectors of the positives.
        positive_id_M: their row ids.
        query_of_M: index into the queries.
        negatives: see `NegativeSets`.

    Returns:
        [M], each at least 0.
    """
    score_M = (query_Pd.index_select(0, query_of_M) * positive_Md).sum(1)
    sums = [
        _sums_per_positive(query_Pd, queries_S, positive_id_M, query_of_M, sets)
        for queries_S, sets in _pools(query_counts_S, negatives)
    ]
    # e^{total} - e^{score + own}, scaled by e^{-top}: what the positive's own copies added to the sum is at most _HEAVY
    # times e^{score}, which stands in the denominator anyway, so the subtraction loses little accuracy.
    top_M = torch.stack([score_M, *(total_M for total_M, _ in sums)]).amax(0).detach()
    all_M = torch.exp(score_M - top_M)
    for total_M, own_M in sums:
        all_M = all_M + (torch.exp(total_M - top_M) - torch.exp(score_M + own_M - top_M)).clamp(min=0.0)
    return top_M + torch.log(all_M) - score_M


def _pools(query_counts_S: list[int], negatives: NegativeSets) -> list[tuple[list[int], NegativeSets]]:
    """(queries of each set, sets): the item sets, and what is shared as one set of all queries, where there is any."""
    first = sum(negatives.counts_S)
    pools = [(query_counts_S, slice(first), negatives.counts_S)]
    if negatives.shared:
        pools.append(([sum(query_counts_S)], slice(first, None), [negatives.shared]))
    shifts_n = negatives.shifts_n
    return [
        (
            queries,
            NegativeSets(
                negatives.vectors_nd[n], negatives.ids_n[n], counts, shifts_n=None if shifts_n is None else shifts_n[n]
            ),
        )
        for queries, n, counts in pools
    ]


def _sums_per_positive(
    query_Pd: Tensor, queries_S: list[int], positive_id_M: Tensor, query_of_M: Tensor, sets: NegativeSets
) -> tuple[Tensor, Tensor]:
    """For each positive, the log-sum-exp over its query's negatives, and the log weight of its own copies in it."""

    def log_sum_exp(query_d: Tensor, counts_S: list[int], without: Tensor | None) -> Tensor:
        hidden = None if without is None else (sets.ids_n, without)
        blocks = _blocks(counts_S, sets.counts_S)
        total: Tensor = _LogSumExp.apply(query_d, sets.vectors_nd, sets.shifts_n, blocks, hidden)
        return total

    set_M = _numbers(queries_S, query_Pd.device)[query_of_M]
    own_M = _own_weight(positive_id_M, set_M, sets)
    total_M = log_sum_exp(query_Pd, queries_S, None).index_select(0, query_of_M)
    heavy = torch.nonzero(own_M > math.log(_HEAVY))[:, 0]
    if len(heavy):
        heavy = heavy[torch.argsort(set_M[heavy])]
        counts_S = torch.bincount(set_M[heavy], minlength=len(queries_S)).tolist()
        others = log_sum_exp(query_Pd.index_select(0, query_of_M[heavy]), counts_S, positive_id_M[heavy])
        total_M, own_M = total_M.index_put((heavy,), others), own_M.index_fill(0, heavy, -math.inf)
    return total_M, own_M


def _own_weight(id_M: Tensor, set_M: Tensor, sets: NegativeSets) -> Tensor:
    """log(copies * e^shift) of each positive's own copies among the negatives of its set; -inf without any."""
    if not len(sets.ids_n):
        return sets.vectors_nd.new_full(id_M.shape, -math.inf)
    span = torch.cat([sets.ids_n, id_M]).max() + 1
    keys_n = _numbers(sets.counts_S, id_M.device) * span + sets.ids_n
    keys_M = set_M * span + id_M
    first_M = torch.searchsorted(keys_n, keys_M)
    copies_M = torch.searchsorted(keys_n, keys_M, right=True) - first_M
    weight_M = copies_M.to(sets.vectors_nd.dtype).log()
    return weight_M if sets.shifts_n is None else weight_M + sets.shifts_n[first_M.clamp(max=len(keys_n) - 1)]


def _numbers(counts_S: list[int], device: torch.device) -> Tensor:
    """0 as often as the first count says, 1 as often as the second, and so on."""
    counts = torch.tensor(counts_S, device=device)
    return torch.repeat_interleave(torch.arange(len(counts_S), device=device), counts)
