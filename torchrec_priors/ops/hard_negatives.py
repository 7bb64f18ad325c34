"""Softmax over negatives that count for more the harder they are (Robinson et al. 2021; REMI).

    nll_m = -log( e^{s_m} / (e^{s_m} + n A_{1+beta} / A_beta) ),    A_x = sum_j c_j e^{x s_j},    n = sum_j c_j

over the negatives j of one item set that are neither the positive's own nor hidden from its query, c_j = e^{shift_j}
being 1 without shifts: n times the mean of e^{s_j} weighed by e^{beta s_j}. Without any such negative nll_m = 0.

A query's sums are taken once for all its positives, whose own terms are then taken out: terms are rounded to the
queries' precision, sums and differences are of double precision, so that nothing but the terms of others is left.

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

_CELLS = 1 << 19  # logits held at a time


def hard_negatives_loss_reference(
    query_Pd: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    beta: float,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, positive by positive. Same arguments and result as `hard_negatives_loss`."""
    losses = []
    for source, row, query in zip(
        positives.source_M, positives.id_M, positives.query_M, strict=True
    ):
        score = query_Pd[query] @ positives.item_Xd[source]
        others = negatives.ids_n != row
        if hidden is not None:
            for first, count in zip(
                hidden.first_RP[:, query], hidden.count_RP[:, query], strict=True
            ):
                others = others.index_fill(0, hidden.negative_H[first : first + count], False)
        logit_j = (negatives.vectors_nd @ query_Pd[query])[others]
        shift_j = (
            torch.zeros_like(logit_j) if negatives.shifts_n is None else negatives.shifts_n[others]
        )
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
    """The weighted sum over positives, through which gradients go once; and [M], each positive's own, without any.

    Args:
        query_Pd: ready for scoring.
        negatives: one item set, and those that are shared.
        hidden: negatives that queries do not see; None where they see all.
    """
    assert len(negatives.counts_S) == 1
    leaves = (query_Pd, positives.item_Xd, negatives.vectors_nd)
    loss: tuple[Tensor, Tensor] = _HardNegatives.apply(*leaves, positives, negatives, beta, hidden)
    return loss


class _HardNegatives(torch.autograd.Function):
    """Weights are known beforehand, so gradients are made with the losses; nothing of size [P, n] is kept."""

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
        columns = [slice(0, negatives.counts_S[0]), slice(negatives.counts_S[0], len(vectors_nd))]
        nll_M = query_Pd.new_zeros(len(positives))
        ctx.grads = tuple(torch.zeros_like(leaf) for leaf in (query_Pd, item_Xd, vectors_nd))
        rows = max(1, _CELLS // max(len(vectors_nd), 1))
        starts = list(range(0, max(len(query_Pd), 1), rows)) if len(vectors_nd) else []
        ends = torch.tensor([*starts, len(query_Pd)], device=query_Pd.device)
        bounds = torch.searchsorted(positives.query_M, ends).tolist()
        for start, some in zip(
            starts, itertools.starmap(slice, itertools.pairwise(bounds)), strict=True
        ):
            of = positives.chosen(some)
            of = replace(of, query_M=of.query_M - start)
            rows_pd = slice(start, start + rows)
            (grad_Pd, grad_Xd, grad_nd) = ctx.grads
            cells = (
                None if hidden is None else hidden.cells(rows_pd, columns[: len(hidden.first_RP)])
            )
            nll_M[some] = _block(
                query_Pd[rows_pd], of, negatives, beta, cells, grad_Pd[rows_pd], grad_Xd, grad_nd
            )
        ctx.mark_non_differentiable(nll_M)
        return (positives.weight_M * nll_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made = ctx.grads
        ctx.grads = None
        assert made is not None, "gradients are handed out once"
        return *(grad.mul_(grads[0]) for grad in made), None, None, None, None


def _block(
    query_pd: Tensor,
    of: WeighedPositives,
    negatives: NegativeSets,
    beta: float,
    cells: tuple[Tensor, Tensor] | None,
    grad_pd: Tensor,
    grad_Xd: Tensor,
    grad_nd: Tensor,
) -> Tensor:
    """[m] losses of some queries' positives, whose gradients are added to `grad_...`.

    Args:
        cells: queries, and negatives that they do not see.
    """
    item_md = of.item_Xd[of.source_M]
    query_md = query_pd[of.query_M]
    score_m = (query_md * item_md).sum(1)
    rest_pn = query_pd @ negatives.vectors_nd.T
    if cells is not None:
        rest_pn[cells] = -torch.inf
    top_p = rest_pn.amax(1).clamp_(
        min=torch.finfo(rest_pn.dtype).min
    )  # where nothing is seen, no NaN
    rest_pn.sub_(top_p[:, None])
    hard_pn = rest_pn.exp()  # e^s
    shift_n = negatives.shifts_n
    soft_pn = hard_pn.clone() if beta == 1 else rest_pn.mul_(beta).exp_()
    if shift_n is not None:
        soft_pn.mul_(shift_n.exp())
    if cells is not None:
        soft_pn[cells] = 0.0  # where beta is 0, too
    hard_pn.mul_(soft_pn)
    row, column = _own(of, negatives)
    cell = of.query_M[row] * rest_pn.shape[1] + column
    copies_n = (
        torch.ones(len(negatives.ids_n), device=score_m.device, dtype=torch.float64)
        if shift_n is None
        else shift_n.double().exp()
    )

    def others(sum_m: Tensor, own: Tensor) -> Tensor:
        return sum_m.index_add(0, row, own.double(), alpha=-1).clamp(min=0)

    hard_m = others(hard_pn.sum(1, dtype=torch.float64)[of.query_M], hard_pn.flatten()[cell])
    soft_m = others(soft_pn.sum(1, dtype=torch.float64)[of.query_M], soft_pn.flatten()[cell])
    copies_pn = copies_n.expand(rest_pn.shape)
    number_p = copies_n.sum().expand(len(rest_pn))
    if cells is not None:
        copies_pn = copies_pn.contiguous()
        copies_pn[cells] = 0.0
        number_p = copies_pn.sum(1)
    number_m = others(number_p[of.query_M], copies_pn[of.query_M[row], column])
    there_m = (hard_m > 0) & (soft_m > 0) & (number_m > 0)
    logs = [torch.where(there_m, value, 1.0).log() for value in (number_m, hard_m, soft_m)]
    above_m = logs[0] + logs[1] - logs[2] + top_p[of.query_M].double() - score_m.double()
    by_m = torch.where(
        there_m, of.weight_M * torch.sigmoid(above_m), 0.0
    )  # by what all negatives give together
    by_hard_m = torch.where(there_m, (1 + beta) * by_m / hard_m, 0.0)
    by_soft_m = torch.where(there_m, beta * by_m / soft_m, 0.0)
    _through_terms(hard_pn, soft_pn, of.query_M, (by_hard_m, by_soft_m), row, cell)
    grad_pd.addmm_(hard_pn, negatives.vectors_nd)
    grad_nd.addmm_(hard_pn.T, query_pd)
    by_m1 = by_m.to(score_m.dtype)[:, None]
    grad_pd.index_add_(0, of.query_M, item_md * by_m1, alpha=-1)
    grad_Xd.index_add_(0, of.source_M, query_md * by_m1, alpha=-1)
    return torch.where(there_m, F.softplus(above_m), 0.0).to(score_m.dtype)


def _through_terms(
    hard_pn: Tensor,
    soft_pn: Tensor,
    query_m: Tensor,
    by_m: tuple[Tensor, Tensor],
    row: Tensor,
    cell: Tensor,
) -> None:
    """Puts derivatives by the logits where the harder terms are; a positive's own terms are none of its derivatives.

    Args:
        by_m: derivatives by the logarithms of both sums, divided by the sums.
        row, cell: positives, and where terms of their own are.
    """
    own, of_own = torch.unique(cell, return_inverse=True)
    whole: list[Tensor] = []
    kept = torch.zeros(len(own), dtype=torch.float64, device=cell.device)
    for sign, term_pn, by in zip((1, -1), (hard_pn, soft_pn), by_m, strict=True):
        by_p = by.new_zeros(len(term_pn)).index_add_(0, query_m, by)
        left = by_p[own // term_pn.shape[1]].index_add_(0, of_own, by[row], alpha=-1).clamp_(min=0)
        kept += sign * left * term_pn.flatten()[own]
        whole.append(by_p.to(term_pn.dtype)[:, None])
    hard_pn.mul_(whole[0]).sub_(soft_pn.mul_(whole[1]))
    hard_pn.view(-1)[own] = kept.to(hard_pn.dtype)


def _own(positives: WeighedPositives, negatives: NegativeSets) -> tuple[Tensor, Tensor]:
    """(positive, negative) for every negative that has the id of the positive."""
    found = []
    first = negatives.counts_S[0]
    for start, end in ((0, first), (first, first + negatives.shared)):
        ids = negatives.ids_n[start:end]
        low_M = torch.searchsorted(ids, positives.id_M)
        count_M = torch.searchsorted(ids, positives.id_M, right=True) - low_M
        found.append(ranges(start + low_M, count_M))
    return torch.cat([row for row, _ in found]), torch.cat([column for _, column in found])
