"""Weighted sum of -log of the in-group softmax (Eq. 7), each over one positive and the negatives of its query.

    nll_m = -log( e^{s_m} / (e^{s_m} + sum_{j in negatives of its query, id_j != id_m} e^{s_j + shift_j}) )

A query has the negatives of its item set and those that all queries share, but for those that are hidden from it. The
sum over them is taken once per query for all its positives; a positive's own id is then taken out of it. Weights are
known beforehand, so gradients are made together with the losses, block by block while a block's logits are in cache:
logits are computed once, and nothing of size [queries, negatives] is kept.

Shapes: P queries sorted by item set, M positives sorted by query, X vectors that positives are among, S item sets, n
negatives in all, one set after another, those that are shared last.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives, own_copies
from torchrec_priors.ops.ranges import numbers

BLOCK = {
    "cpu": 1 << 19,
    "cuda": 1 << 24,
}  # logits held at a time: on the CPU what the caches of two cores hold
POSITIVES = 1 << 11  # whose vectors are at hand at a time
_HEAVY = 256.0  # copies that weigh more than so many times their positive are left out of the sum, not subtracted
_SAFE = 60.0  # logits that cannot exceed it, either way, are exponentiated as they are


def in_group_loss_reference(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, positive by positive. Same arguments and result as `in_group_loss`."""
    set_P = [number for number, count in enumerate(query_counts_S) for _ in range(count)]
    starts = [sum(negatives.counts_S[:number]) for number in range(len(negatives.counts_S) + 1)]
    shared = list(range(starts[-1], starts[-1] + negatives.shared))
    losses = []
    for source, row, query_row in zip(
        positives.source_M, positives.id_M, positives.query_M, strict=True
    ):
        number = set_P[query_row]
        of_query = [*range(starts[number], starts[number + 1]), *shared]
        if hidden is not None:
            for first, count in zip(
                hidden.first_RP[:, query_row], hidden.count_RP[:, query_row], strict=True
            ):
                of_query = [
                    j for j in of_query if j not in hidden.negative_H[first : first + count]
                ]
        others = [j for j in of_query if negatives.ids_n[j] != row]
        score = query_Pd[query_row] @ positives.item_Xd[source]
        logits = negatives.vectors_nd[others] @ query_Pd[query_row]
        if negatives.shifts_n is not None:
            logits = logits + negatives.shifts_n[others]
        losses.append(torch.logsumexp(torch.cat([score[None], logits]), 0) - score)
    nll_M = torch.stack(losses) if losses else query_Pd.new_zeros(0)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def in_group_loss(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of the positives among the negatives of their queries.

    Args:
        query_Pd: queries, sorted by item set; temperature and normalisation already applied.
        query_counts_S: queries of each set.
        positives: see `WeighedPositives`.
        negatives: see `NegativeSets`.
        hidden: negatives that queries do not see; None where they see all.

    Returns:
        The weighted sum, through which gradients go to queries, items and negatives, once; and [M], each positive's
        own, at least 0, through which none go.
    """
    leaves = (query_Pd, positives.item_Xd, negatives.vectors_nd)
    loss: tuple[Tensor, Tensor] = _InGroupLoss.apply(
        *leaves, query_counts_S, positives, negatives, hidden, torch.is_grad_enabled()
    )
    return loss


class _InGroupLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_Pd: Tensor,
        item_Xd: Tensor,
        vectors_nd: Tensor,
        query_counts_S: list[int],
        positives: WeighedPositives,
        negatives: NegativeSets,
        hidden: Hidden | None,
        with_grads: bool,
    ) -> tuple[Tensor, Tensor]:
        blocks = _Blocks(item_Xd, vectors_nd, negatives, with_grads)
        set_M = numbers(torch.tensor(query_counts_S, device=query_Pd.device))[positives.query_M]
        copies_M = own_copies(positives.id_M, set_M, negatives, query_Pd.dtype)
        if hidden is not None:  # what a query does not see is not in its sum
            copies_M.masked_fill_(hidden.own_M, 0.0)
        heavy_M = copies_M > _HEAVY
        heavy = torch.nonzero(heavy_M)[:, 0]
        light = torch.nonzero(~heavy_M)[:, 0] if len(heavy) else slice(None)
        nll_M = query_Pd.new_empty(len(positives))
        nll_M[light], grad_Pd = blocks.run(
            query_Pd, query_counts_S, positives.chosen(light), copies_M[light], hidden
        )
        if len(heavy):  # each has a query of its own, which does not see its copies
            of = positives.chosen(heavy)
            alone = replace(of, query_M=torch.arange(len(heavy), device=heavy.device))
            alone_S = torch.bincount(set_M[heavy], minlength=len(query_counts_S)).tolist()
            seeing = None if hidden is None else hidden.of(of.query_M)
            nll_M[heavy], grad_Hd = blocks.run(
                query_Pd.index_select(0, of.query_M), alone_S, alone, None, seeing
            )
            if blocks.with_grads:
                grad_Pd.index_add_(0, of.query_M, grad_Hd)
        ctx.grads = (grad_Pd, blocks.grad_item_Xd, blocks.grad_vectors_nd)
        ctx.mark_non_differentiable(nll_M)
        return (positives.weight_M * nll_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made = ctx.grads
        ctx.grads = None
        assert made is not None, "gradients are handed out once"
        return *(grad.mul_(grads[0]) for grad in made), None, None, None, None, None


class _Blocks:
    """Losses, and gradients where they are asked for, one block of queries of a set after another."""

    def __init__(
        self, item_Xd: Tensor, vectors_nd: Tensor, negatives: NegativeSets, with_grads: bool
    ) -> None:
        self.item_Xd = item_Xd
        self.vectors_nd = vectors_nd
        self.negatives = negatives
        self.with_grads = with_grads
        self.grad_item_Xd = torch.zeros_like(item_Xd if with_grads else item_Xd[:0])
        self.grad_vectors_nd = torch.zeros_like(vectors_nd if with_grads else vectors_nd[:0])
        self.block = BLOCK[vectors_nd.device.type]
        self.scratch = vectors_nd.new_empty(
            max(self.block, max(negatives.counts_S) + negatives.shared)
        )

    def run(
        self,
        query_Pd: Tensor,
        counts_S: list[int],
        positives: WeighedPositives,
        copies_M: Tensor | None,
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor]:
        """[M] losses, and [P, d] gradients of the queries.

        Args:
            copies_M: what of its query's sum over negatives are copies of a positive, in multiples of e^{its score}.
                None where positives and queries are the same in number, and a query does not see what has its id.
        """
        own_P = positives.id_M if copies_M is None else None
        score_M = self._scores(query_Pd, positives)
        copies_M = torch.zeros_like(score_M) if copies_M is None else copies_M
        grad_Pd = torch.empty_like(query_Pd if self.with_grads else query_Pd[:0])
        sum_P, top_P = query_Pd.new_empty(2, len(query_Pd))
        there_M = torch.empty_like(
            score_M, dtype=torch.bool
        )  # whether a query has negatives besides copies
        blocks = list(self._bounds(counts_S))
        safe = self._safe(query_Pd)
        ends = torch.tensor([0, *(rows.stop for rows, _ in blocks)], device=query_Pd.device)
        chosen = itertools.starmap(
            slice, itertools.pairwise(torch.searchsorted(positives.query_M, ends).tolist())
        )
        for (rows, columns), some in zip(blocks, chosen, strict=True):
            own_r = None if own_P is None else own_P[rows]
            cells = None if hidden is None else hidden.cells(rows, columns)
            exp_rc, top_r = self._exp(query_Pd[rows], columns, own_r, cells, safe)
            sum_r = torch.sum(exp_rc, 1, out=sum_P[rows])
            top_P[rows] = top_r
            row_m = positives.query_M[some] - rows.start
            own_m = torch.exp(score_M[some] - (top_r if isinstance(top_r, float) else top_r[row_m]))
            own_m.clamp_(
                max=torch.finfo(own_m.dtype).max
            )  # of no copies nothing is taken out, rather than NaN
            others_m = sum_r[row_m] - copies_M[some] * own_m
            there_m = torch.le(
                others_m, 0.0, out=there_M[some]
            ).logical_not_()  # a NaN is there, and stays one
            if self.with_grads:
                by_sum_m = torch.where(there_m, positives.weight_M[some] / (others_m + own_m), 0.0)
                by_sum_r1 = torch.zeros_like(sum_r).index_add_(0, row_m, by_sum_m)[:, None]
                self._through_sum(exp_rc, columns, query_Pd[rows], by_sum_r1, grad_Pd[rows])
        nll_M, by_score_M = _nll(
            score_M, (sum_P.log_() + top_P)[positives.query_M], copies_M, there_M
        )
        if self.with_grads:
            self._through_scores(query_Pd, positives, positives.weight_M * by_score_M, grad_Pd)
        return nll_M, grad_Pd

    def _scores(self, query_Pd: Tensor, positives: WeighedPositives) -> Tensor:
        score_M = query_Pd.new_empty(len(positives))
        for some in _pieces(len(positives)):
            item_md = self.item_Xd.index_select(0, positives.source_M[some])
            torch.sum(
                item_md.mul_(query_Pd.index_select(0, positives.query_M[some])),
                1,
                out=score_M[some],
            )
        return score_M

    def _through_scores(
        self, query_Pd: Tensor, positives: WeighedPositives, by_score_M: Tensor, grad_Pd: Tensor
    ) -> None:
        """Adds to gradients of queries and items what comes through the positives' scores."""
        for some in _pieces(len(positives)):
            of_query_m = positives.query_M[some]
            of_item_m = positives.source_M[some]
            by_m1 = by_score_M[some, None]
            item_md = self.item_Xd.index_select(0, of_item_m)
            query_md = query_Pd.index_select(0, of_query_m)
            grad_Pd.index_add_(0, of_query_m, item_md.mul_(by_m1))
            self.grad_item_Xd.index_add_(0, of_item_m, query_md.mul_(by_m1))

    def _through_sum(
        self,
        exp_rc: Tensor,
        columns: list[slice],
        query_rd: Tensor,
        by_sum_r1: Tensor,
        grad_rd: Tensor,
    ) -> None:
        """Gradients of a block's queries, and what it adds to those of its negatives.

        Args:
            by_sum_r1: derivatives by the sums of what `_exp` gave.
        """
        weighed_rd = query_rd * by_sum_r1
        first = 0
        for some in columns:
            exp = exp_rc[:, first : first + some.stop - some.start]
            grad_rd.addmm_(exp, self.vectors_nd[some], beta=float(first > 0))
            self.grad_vectors_nd[some].addmm_(exp.T, weighed_rd)
            first += exp.shape[1]
        grad_rd.mul_(by_sum_r1)

    def _safe(self, query_Pd: Tensor) -> bool:
        """Whether no logit can overflow; on a GPU finding out would make it wait."""
        if query_Pd.is_cuda or not len(query_Pd) or not len(self.vectors_nd):
            return False
        longest = [
            float(torch.linalg.vector_norm(some, dim=1).amax())
            for some in (query_Pd, self.vectors_nd)
        ]
        shifts_n = self.negatives.shifts_n
        return (
            math.prod(longest) + (0.0 if shifts_n is None else float(shifts_n.abs().amax()))
            <= _SAFE
        )

    def _exp(
        self,
        query_rd: Tensor,
        columns: list[slice],
        own_r: Tensor | None,
        cells: tuple[Tensor, Tensor] | None,
        safe: bool,
    ) -> tuple[Tensor, Tensor | float]:
        """e^{logit - top} of a block, 0 for what its query does not see: an id of its own, and some cells; and top,
        [r]."""
        widths = [some.stop - some.start for some in columns]
        exp_rc = self.scratch[: len(query_rd) * sum(widths)].view(len(query_rd), sum(widths))
        for exp, some in zip(exp_rc.split(widths, 1), columns, strict=True):
            torch.mm(query_rd, self.vectors_nd[some].T, out=exp)
            if self.negatives.shifts_n is not None:
                exp.add_(self.negatives.shifts_n[some])
            if own_r is not None:
                exp.masked_fill_(self.negatives.ids_n[some] == own_r[:, None], -torch.inf)
        if cells is not None:
            exp_rc.index_put_(cells, exp_rc.new_tensor(-torch.inf))
        if safe or not exp_rc.shape[1]:
            return exp_rc.exp_(), 0.0
        top_r = exp_rc.amax(1).clamp_(
            min=torch.finfo(exp_rc.dtype).min
        )  # where nothing is seen, no NaN
        return exp_rc.sub_(top_r[:, None]).exp_(), top_r

    def _bounds(self, counts_S: list[int]) -> Iterator[tuple[slice, list[slice]]]:
        """Queries of a block, and where the negatives of their set are, and those of all."""
        first = sum(self.negatives.counts_S)
        shared = slice(first, first + self.negatives.shared)
        query = 0
        vector = 0
        for queries, vectors in zip(counts_S, self.negatives.counts_S, strict=True):
            columns = [
                slice(vector, vector + vectors),
                *([shared] if self.negatives.shared else []),
            ]
            step = max(1, self.block // max(vectors + self.negatives.shared, 1))
            for start in range(query, query + queries, step):
                yield slice(start, min(start + step, query + queries)), columns
            query = query + queries
            vector = vector + vectors


def _pieces(number: int) -> Iterator[slice]:
    """Positives whose vectors the cache holds."""
    for start in range(0, number, POSITIVES):
        yield slice(start, start + POSITIVES)


def _nll(
    score_M: Tensor, sum_M: Tensor, copies_M: Tensor, there_M: Tensor
) -> tuple[Tensor, Tensor]:
    """-log(e^score / (e^score + e^sum - copies e^score)), and its derivative by the score; 0 where no others are there.

    All is scaled by the larger of the two: what the copies added to the sum is at most _HEAVY times e^score, which
    stands in the denominator anyway, so the subtraction loses little accuracy.
    """
    top_M = torch.maximum(score_M, sum_M)
    own_M = torch.exp(score_M - top_M)
    others_M = (torch.exp(sum_M - top_M) - copies_M * own_M).clamp_(min=0.0)
    nll_M = top_M + (others_M + own_M).log() - score_M
    by_score_M = own_M * (1.0 - copies_M) / (others_M + own_M) - 1.0
    return torch.where(there_M, nll_M, 0.0), torch.where(there_M, by_score_M, 0.0)
