"""Softmax in which harder negatives count more (Robinson et al. 2021; REMI).

    nll_m = -log( e^{s_m} / (e^{s_m} + n A_{1+beta} / A_beta) )
    A_x = sum_j c_j e^{x s_j},    n = sum_j c_j

s_m and s_j are the dot products of the query with the positive m and a negative j. The sums are
over the negatives j of one item set, except copies of the positive and negatives that are hidden
from its query. c_j is e^{shift_j}, or 1 without shifts. So n A_{1+beta} / A_beta is n times the
weighted mean of e^{s_j}, with the weights c_j e^{beta s_j}. If no negative is left, nll_m = 0.

A query's sums are computed once, over all its negatives. The terms of each positive's own copies
are then subtracted. The terms have the precision of the queries, but sums and differences have
double precision, so the subtraction leaves no remainder of these terms.

Shapes: P queries, M positives sorted by query, n negatives, d width.
"""

import itertools
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.ranges import ranges

_CELLS = 1 << 19  # number of logits in memory at a time


def hard_negatives_loss_reference(
    query_Pd: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    beta: float,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, positive by positive. Same arguments and result as `hard_negatives_loss`."""
    losses = []
    of_positives = (positives.source_M, positives.id_M, positives.query_M)
    for source, own_id, query in zip(*of_positives, strict=True):
        others = negatives.ids_n != own_id
        if hidden is not None:
            pools = zip(hidden.first_RP[:, query], hidden.count_RP[:, query], strict=True)
            for first, count in pools:
                others = others.index_fill(0, hidden.negative_H[first : first + count], False)

        score = query_Pd[query] @ positives.item_Xd[source]
        logit_j = (negatives.vectors_nd @ query_Pd[query])[others]
        shift_j = torch.zeros_like(logit_j)
        if negatives.shifts_n is not None:
            shift_j = negatives.shifts_n[others]

        weight_j = torch.softmax(beta * logit_j + shift_j, 0)
        hard = shift_j.exp().sum() * (weight_j * logit_j.exp()).sum()
        losses.append(torch.log(score.exp() + hard) - score)

    nll_M = torch.stack(losses) if losses else query_Pd.new_zeros(0)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def hard_negatives_loss(
    query_Pd: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    beta: float,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the weighted negative log-likelihood of the positives among harder negatives.

    Args:
        query_Pd: queries; temperature and normalisation are already applied.
        positives: the positives of the queries.
        negatives: the negatives of one item set, and the shared negatives.
        beta: how much more the harder negatives count.
        hidden: negatives that are hidden from queries; None if none are.

    Returns:
        The weighted sum and each positive's loss, [M]. The gradients of the sum can be used once;
        the losses have no gradient.
    """
    assert len(negatives.counts_S) == 1
    leaves = (query_Pd, positives.item_Xd, negatives.vectors_nd)
    loss: tuple[Tensor, Tensor] = _HardNegatives.apply(*leaves, positives, negatives, beta, hidden)
    return loss


class _HardNegatives(torch.autograd.Function):
    """Computes gradients together with the losses, so nothing of size [P, n] is kept for backward.

    This is possible because the weights are known beforehand.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_Pd: Tensor,
        item_Xd: Tensor,
        vectors_nd: Tensor,
        positives: WeighedPositives,
        negatives: NegativeSets,
        beta: float,
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor]:
        in_set = slice(0, negatives.counts_S[0])
        shared = slice(negatives.counts_S[0], len(vectors_nd))
        pools = [in_set, shared]
        nll_M = query_Pd.new_zeros(len(positives))
        grads = tuple(torch.zeros_like(leaf) for leaf in (query_Pd, item_Xd, vectors_nd))
        grad_Pd, grad_Xd, grad_nd = grads

        # Without negatives there are no blocks, and every loss is 0.
        rows_of_block = max(1, _CELLS // max(len(vectors_nd), 1))
        starts: list[int] = []
        if len(vectors_nd):
            starts = list(range(0, max(len(query_Pd), 1), rows_of_block))
        ends = torch.tensor([*starts, len(query_Pd)], device=query_Pd.device)
        bounds = torch.searchsorted(positives.query_M, ends).tolist()

        for start, (first, last) in zip(starts, itertools.pairwise(bounds), strict=True):
            rows = slice(start, start + rows_of_block)
            chosen = positives.chosen(slice(first, last))
            chosen = replace(chosen, query_M=chosen.query_M - start)
            cells = None
            if hidden is not None:
                cells = hidden.cells(rows, pools[: len(hidden.first_RP)])
            nll_M[first:last] = _block(
                query_Pd[rows], chosen, negatives, beta, cells, grad_Pd[rows], grad_Xd, grad_nd
            )

        ctx.grads = grads
        ctx.mark_non_differentiable(nll_M)
        return (positives.weight_M * nll_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # The gradients are scaled in place, because they are used only once.
        computed = ctx.grads
        ctx.grads = None
        assert computed is not None, "the gradients can be used only once"
        scaled = [grad.mul_(grads[0]) for grad in computed]
        return *scaled, None, None, None, None


def _block(
    query_pd: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    beta: float,
    cells: tuple[Tensor, Tensor] | None,
    grad_pd: Tensor,
    grad_Xd: Tensor,
    grad_nd: Tensor,
) -> Tensor:
    """Returns the losses of some queries' positives, [m], and adds the gradients to `grad_...`.

    Args:
        cells: (query, negative) of all hidden negatives; None if there are none.
    """
    query_m = positives.query_M
    item_md = positives.item_Xd[positives.source_M]
    query_md = query_pd[query_m]
    score_m = (query_md * item_md).sum(1)

    # Each query's largest logit is subtracted. It is clamped because all negatives of a query may
    # be hidden, and -inf - -inf would be NaN.
    logit_pn = query_pd @ negatives.vectors_nd.T
    if cells is not None:
        logit_pn[cells] = -torch.inf
    top_p = logit_pn.amax(1).clamp_(min=torch.finfo(logit_pn.dtype).min)
    logit_pn.sub_(top_p[:, None])

    # The terms of both sums: c e^{beta s} and c e^{(1 + beta) s}.
    shift_n = negatives.shifts_n
    hard_pn = logit_pn.exp()
    soft_pn = hard_pn.clone() if beta == 1 else logit_pn.mul_(beta).exp_()
    if shift_n is not None:
        soft_pn.mul_(shift_n.exp())
    if cells is not None:
        soft_pn[cells] = 0.0  # with beta = 0 it is NaN: 0 * -inf
    hard_pn.mul_(soft_pn)

    # The sums, and the number of negatives, without each positive's own copies.
    row, column = _pairs_of_copies(positives, negatives)
    cell = query_m[row] * logit_pn.shape[1] + column

    def without(sum_m: Tensor, copies: Tensor) -> Tensor:
        return sum_m.index_add(0, row, copies.double(), alpha=-1).clamp(min=0)

    hard_m = without(hard_pn.sum(1, dtype=torch.float64)[query_m], hard_pn.flatten()[cell])
    soft_m = without(soft_pn.sum(1, dtype=torch.float64)[query_m], soft_pn.flatten()[cell])

    copies_n = torch.ones(len(negatives.ids_n), device=score_m.device, dtype=torch.float64)
    if shift_n is not None:
        copies_n = shift_n.double().exp()
    copies_pn = copies_n.expand(logit_pn.shape)
    number_p = copies_n.sum().expand(len(logit_pn))
    if cells is not None:
        copies_pn = copies_pn.contiguous()
        copies_pn[cells] = 0.0
        number_p = copies_pn.sum(1)
    number_m = without(number_p[query_m], copies_pn[query_m[row], column])

    # log(n A_{1+beta} / A_beta / e^score). The loss is its softplus.
    has_others_m = (hard_m > 0) & (soft_m > 0) & (number_m > 0)
    log_number_m = torch.where(has_others_m, number_m, 1.0).log()
    log_hard_m = torch.where(has_others_m, hard_m, 1.0).log()
    log_soft_m = torch.where(has_others_m, soft_m, 1.0).log()
    log_mean_m = log_number_m + log_hard_m - log_soft_m
    log_ratio_m = log_mean_m + top_p[query_m].double() - score_m.double()

    # Derivatives of the loss with respect to that logarithm, then to the terms of both sums.
    by_m = torch.where(has_others_m, positives.weight_M * torch.sigmoid(log_ratio_m), 0.0)
    by_hard_m = torch.where(has_others_m, (1 + beta) * by_m / hard_m, 0.0)
    by_soft_m = torch.where(has_others_m, beta * by_m / soft_m, 0.0)
    _through_terms(hard_pn, soft_pn, query_m, (by_hard_m, by_soft_m), row, cell)
    grad_pd.addmm_(hard_pn, negatives.vectors_nd)
    grad_nd.addmm_(hard_pn.T, query_pd)

    by_score_m1 = by_m.to(score_m.dtype)[:, None]
    grad_pd.index_add_(0, query_m, item_md * by_score_m1, alpha=-1)
    grad_Xd.index_add_(0, positives.source_M, query_md * by_score_m1, alpha=-1)
    return torch.where(has_others_m, F.softplus(log_ratio_m), 0.0).to(score_m.dtype)


def _through_terms(
    hard_pn: Tensor,
    soft_pn: Tensor,
    query_m: Tensor,
    by_m: tuple[Tensor, Tensor],
    row: Tensor,
    cell: Tensor,
) -> None:
    """Overwrites `hard_pn` with the derivatives of the loss with respect to the logits.

    A positive's loss does not depend on the positive's own copies. The cells of copies therefore
    get the derivatives of the query's other positives only.

    Args:
        hard_pn, soft_pn: the terms of both sums.
        query_m: the query of each positive.
        by_m: derivatives with respect to the logarithms of both sums, divided by the sums.
        row, cell: for each copy, its positive and its cell in the flat [p, n].
    """
    copy_cells, index_of_copy = torch.unique(cell, return_inverse=True)
    factors: list[Tensor] = []
    at_copies = torch.zeros(len(copy_cells), dtype=torch.float64, device=cell.device)
    for sign, term_pn, by in zip((1, -1), (hard_pn, soft_pn), by_m, strict=True):
        by_p = by.new_zeros(len(term_pn)).index_add_(0, query_m, by)
        by_others = by_p[copy_cells // term_pn.shape[1]]
        by_others = by_others.index_add_(0, index_of_copy, by[row], alpha=-1).clamp_(min=0)
        at_copies += sign * by_others * term_pn.flatten()[copy_cells]
        factors.append(by_p.to(term_pn.dtype)[:, None])

    hard_pn.mul_(factors[0]).sub_(soft_pn.mul_(factors[1]))
    hard_pn.view(-1)[copy_cells] = at_copies.to(hard_pn.dtype)


def _pairs_of_copies(positives: WeighedPositives, negatives: NegativeSets) -> tuple[Tensor, Tensor]:
    """Returns the index pairs (positive, negative) with equal ids."""
    pairs = []
    first = negatives.counts_S[0]
    for start, end in ((0, first), (first, first + negatives.shared)):
        ids = negatives.ids_n[start:end]
        low_M = torch.searchsorted(ids, positives.id_M)
        count_M = torch.searchsorted(ids, positives.id_M, right=True) - low_M
        pairs.append(ranges(start + low_M, count_M))
    return torch.cat([row for row, _ in pairs]), torch.cat([column for _, column in pairs])
