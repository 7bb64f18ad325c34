"""-log of the in-group softmax (Eq. 7) over one positive and the negatives of its query's item set.

    nll_m = -log( e^{s_m} / (e^{s_m} + sum_{j in negatives of the set, id_j != id_m} e^{s_j + shift}) )

The sum over negatives is taken once per query and shared by its positives; a positive's own id is then taken out of
the sum. Logits are computed block by block, and again in backward: nothing of size [queries, negatives] is kept.

Shapes: P queries sorted by item set, M positives, S item sets, n negatives in all, one set after another.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 21  # logits held at a time


@dataclass(frozen=True)
class NegativeSets:
    """Negatives of every item set.

    Attributes:
        vectors_nd: what queries are multiplied with.
        ids_n: int64 row ids, ascending within a set.
        counts_S: negatives of each set; their sum is n.
        shifts_S: added to every negative's logit: log(eligible items / negatives) makes the sum an unbiased estimate of
            the sum over all eligible items (logQ correction of a uniform sample); 0 leaves Eq. 7 as it is.
    """

    vectors_nd: Tensor
    ids_n: Tensor
    counts_S: list[int]
    shifts_S: list[float]


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
    losses = []
    for vector, row, query_row in zip(positive_Md, positive_id_M.tolist(), query_of_M.tolist(), strict=True):
        number = set_P[query_row]
        chosen = slice(starts[number], starts[number + 1])
        others = negatives.vectors_nd[chosen][negatives.ids_n[chosen] != row]
        score = query_Pd[query_row] @ vector
        logits = torch.cat([score[None], others @ query_Pd[query_row] + negatives.shifts_S[number]])
        losses.append(torch.logsumexp(logits, 0) - score)
    return torch.stack(losses) if losses else query_Pd.new_zeros(0)


class _LogSumExp(torch.autograd.Function):
    """log sum_j exp(query . vector_j) over the vectors of each query's set, without keeping the products."""

    @staticmethod
    def forward(ctx: Any, query_Pd: Tensor, vectors_nd: Tensor, queries_S: list[int], vectors_S: list[int]) -> Tensor:
        out_P = query_Pd.new_empty(len(query_Pd))
        for rows, columns in _blocks(queries_S, vectors_S):
            out_P[rows] = torch.logsumexp(query_Pd[rows] @ vectors_nd[columns].T, 1)
        ctx.save_for_backward(query_Pd, vectors_nd, out_P)
        ctx.counts = (queries_S, vectors_S)
        return out_P

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query_Pd, vectors_nd, out_P = ctx.saved_tensors
        grad_query_Pd = torch.zeros_like(query_Pd)
        grad_vectors_nd = torch.zeros_like(vectors_nd)
        for rows, columns in _blocks(*ctx.counts):
            block = query_Pd[rows] @ vectors_nd[columns].T
            block.sub_(out_P[rows, None]).exp_().mul_(grads[0][rows, None])
            grad_query_Pd[rows] = block @ vectors_nd[columns]
            grad_vectors_nd[columns] += block.T @ query_Pd[rows]
        return grad_query_Pd, grad_vectors_nd, None, None


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
    """Negative log-likelihood of every positive among the negatives of its query's set.

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
    total_P: Tensor = _LogSumExp.apply(query_Pd, negatives.vectors_nd, query_counts_S, negatives.counts_S)
    device = query_Pd.device
    set_P = torch.repeat_interleave(
        torch.arange(len(query_counts_S), device=device), torch.tensor(query_counts_S, device=device)
    )
    set_M = set_P[query_of_M]
    shift_M = torch.tensor(negatives.shifts_S, device=device, dtype=query_Pd.dtype)[set_M]
    repeats_M = _occurrences(positive_id_M, set_M, negatives)

    score_M = (query_Pd.index_select(0, query_of_M) * positive_Md).sum(1)
    others_M = total_P.index_select(0, query_of_M) + shift_M
    # e^{others} - repeats * e^{score + shift}, scaled by e^{-top}: what the positive's own copies added to the sum is
    # at most a few times e^{score}, which stands in the denominator anyway, so the subtraction loses no accuracy.
    top_M = torch.maximum(score_M, others_M).detach()
    own_M = torch.exp(score_M - top_M)
    rest_M = torch.exp(others_M - top_M) - repeats_M * torch.exp(score_M + shift_M - top_M)
    return top_M + torch.log(own_M + rest_M.clamp(min=0.0)) - score_M


def _occurrences(id_M: Tensor, set_M: Tensor, negatives: NegativeSets) -> Tensor:
    """How often each positive's id stands among the negatives of its set."""
    device = id_M.device
    sets_n = torch.repeat_interleave(
        torch.arange(len(negatives.counts_S), device=device), torch.tensor(negatives.counts_S, device=device)
    )
    span = max(_largest(negatives.ids_n), _largest(id_M)) + 1
    keys_n = sets_n * span + negatives.ids_n
    keys_M = set_M * span + id_M
    first = torch.searchsorted(keys_n, keys_M)
    last = torch.searchsorted(keys_n, keys_M, right=True)
    return (last - first).to(negatives.vectors_nd.dtype)


def _largest(ids: Tensor) -> int:
    return int(ids.max()) if len(ids) else 0
