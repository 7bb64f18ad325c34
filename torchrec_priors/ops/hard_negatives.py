"""Softmax over negatives that count for more the harder they are (Robinson et al. 2021; REMI).

    nll_m = -log( e^{s_m} / (e^{s_m} + n A_{1+beta} / A_beta) ),    A_x = sum_j c_j e^{x s_j},    n = sum_j c_j

over the negatives j of one item set that are not the positive's own, c_j = e^{shift_j} being 1 without shifts: n times
the mean of e^{s_j} weighed by e^{beta s_j}. Without any such negative nll_m = 0.

A query's sums are taken once for all its positives, whose own terms are then taken out: terms are rounded to the
queries' precision, sums and differences are of double precision, so that nothing but the terms of others is left.

Shapes: P queries, M positives sorted by query, n negatives, d width.
"""

import itertools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives

_CELLS = 1 << 21  # logits held at a time


def hard_negatives_loss_reference(
    query_Pd: Tensor, positives: WeighedPositives, negatives: NegativeSets, beta: float
) -> tuple[Tensor, Tensor]:
    """The definition, positive by positive. Same arguments and result as `hard_negatives_loss`."""
    losses = []
    for source, row, query in zip(positives.source_M, positives.id_M, positives.query_M, strict=True):
        score, others = query_Pd[query] @ positives.item_Xd[source], negatives.ids_n != row
        logit_j = (negatives.vectors_nd @ query_Pd[query])[others]
        shift_j = torch.zeros_like(logit_j) if negatives.shifts_n is None else negatives.shifts_n[others]
        weight_j = torch.softmax(beta * logit_j + shift_j, 0)
        hard = shift_j.exp().sum() * (weight_j * logit_j.exp()).sum()
        losses.append(torch.log(score.exp() + hard) - score)
    nll_M = torch.stack(losses) if losses else query_Pd.new_zeros(0)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def hard_negatives_loss(
    query_Pd: Tensor, positives: WeighedPositives, negatives: NegativeSets, beta: float
) -> tuple[Tensor, Tensor]:
    """The weighted sum over positives, and [M], each positive's own, without gradient.

    Args:
        query_Pd: ready for scoring.
        negatives: one item set, and those that are shared; nothing of size [P, n] is kept for backward.
    """
    assert len(negatives.counts_S) == 1
    rows = max(1, _CELLS // max(len(negatives.ids_n), 1))
    starts = list(range(0, max(len(query_Pd), 1), rows))
    ends = torch.tensor([*starts, len(query_Pd)], device=query_Pd.device)
    bounds = torch.searchsorted(positives.query_M, ends).tolist()
    parts = []
    for start, some in zip(starts, itertools.starmap(slice, itertools.pairwise(bounds)), strict=True):
        of = positives.chosen(some)
        of = replace(of, query_M=of.query_M - start)
        given = (query_Pd[start : start + rows], of.item_Xd, negatives.vectors_nd, of, negatives, beta)
        parts.append(checkpoint(_nll, *given, use_reentrant=False, preserve_rng_state=False))
    nll_M = torch.cat(parts)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def _nll(
    query_pd: Tensor,
    item_Xd: Tensor,
    vectors_nd: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    beta: float,
) -> Tensor:
    """[m] of some queries."""
    score_m = (query_pd[positives.query_M] * item_Xd[positives.source_M]).sum(1)
    logit_pn = query_pd @ vectors_nd.T
    if not len(vectors_nd):
        return 0.0 * score_m
    shift_n = vectors_nd.new_zeros(len(vectors_nd)) if negatives.shifts_n is None else negatives.shifts_n
    row, column = _own(positives, negatives)
    cell = positives.query_M[row] * logit_pn.shape[1] + column
    top_p = logit_pn.detach().amax(1, keepdim=True)

    def others(power: float) -> Tensor:
        """log of A_power over what is not a positive's own, less power * top."""
        term_pn = torch.exp(power * (logit_pn - top_p) + shift_n)
        sum_m = term_pn.sum(1, dtype=torch.float64)[positives.query_M]
        own = term_pn.flatten()[cell].double()
        return (sum_m - torch.zeros_like(sum_m).index_add(0, row, own)).clamp(min=0)

    copies = shift_n.double().exp()
    number_m = copies.sum() - torch.zeros_like(score_m, dtype=torch.float64).index_add(0, row, copies[column])
    hard_m, soft_m = others(1 + beta), others(beta)
    there_m = (hard_m > 0) & (soft_m > 0) & (number_m > 0)
    logs = [torch.where(there_m, value, 1.0).log() for value in (number_m, hard_m, soft_m)]
    negative_m = logs[0] + logs[1] - logs[2] + top_p[positives.query_M, 0].double()
    return torch.where(there_m, F.softplus(negative_m - score_m.double()), 0.0).to(score_m.dtype)


def _own(positives: WeighedPositives, negatives: NegativeSets) -> tuple[Tensor, Tensor]:
    """(positive, negative) for every negative that has the id of the positive."""
    found = []
    first = negatives.counts_S[0]
    for start, end in ((0, first), (first, first + negatives.shared)):
        ids = negatives.ids_n[start:end]
        low_M = torch.searchsorted(ids, positives.id_M)
        count_M = torch.searchsorted(ids, positives.id_M, right=True) - low_M
        row = torch.repeat_interleave(torch.arange(len(count_M), device=ids.device), count_M)
        within = torch.arange(len(row), device=ids.device) - (count_M.cumsum(0) - count_M)[row]
        found.append((row, start + low_M[row] + within))
    return torch.cat([row for row, _ in found]), torch.cat([column for _, column in found])
