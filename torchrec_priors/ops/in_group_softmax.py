"""Weighted sum of -log of the in-group softmax (Eq. 7), each over one positive and the negatives of its query.

    nll_m = -log( e^{s_m} / (e^{s_m} + sum_{j in negatives of its query, id_j != id_m} e^{s_j + shift_j}) )

A query has the negatives of its item set and those that all queries share. The sum over them is taken once per query
for all its positives; a positive's own id is then taken out of it. Weights are known beforehand, so gradients are made
together with the losses, block by block while a block's logits are in cache: logits are computed once, and nothing of
size [queries, negatives] is kept.

Shapes: P queries sorted by item set, M positives sorted by query, X vectors that positives are among, S item sets, n
negatives in all, one set after another, those that are shared last.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 24}  # logits held at a time: on the CPU what the caches of two cores hold
_MOST_ROWS = 1 << 11  # queries of a block, however few negatives they have
_HEAVY = 256.0  # copies that weigh more than so many times their positive are left out of the sum, not subtracted
_SAFE = 60.0  # logits that cannot exceed it, either way, are exponentiated as they are


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


@dataclass(frozen=True)
class WeighedPositives:
    """What queries are to find.

    Attributes:
        item_Xd: vectors.
        source_M: which of them each positive is.
        id_M: their row ids.
        query_M: their queries, ascending.
        weight_M: their weights in the sum.
    """

    item_Xd: Tensor
    source_M: Tensor
    id_M: Tensor
    query_M: Tensor
    weight_M: Tensor

    def __len__(self) -> int:
        return len(self.query_M)

    def chosen(self, which: Tensor | slice) -> "WeighedPositives":
        """Some of them."""
        of_M = (self.source_M, self.id_M, self.query_M, self.weight_M)
        return WeighedPositives(self.item_Xd, *(values[which] for values in of_M))


def in_group_loss_reference(
    query_Pd: Tensor, query_counts_S: list[int], positives: WeighedPositives, negatives: NegativeSets
) -> tuple[Tensor, Tensor]:
    """The definition, positive by positive. Same arguments and result as `in_group_loss`."""
    set_P = [number for number, count in enumerate(query_counts_S) for _ in range(count)]
    starts = [sum(negatives.counts_S[:number]) for number in range(len(negatives.counts_S) + 1)]
    shared = list(range(starts[-1], starts[-1] + negatives.shared))
    losses = []
    for source, row, query_row in zip(positives.source_M, positives.id_M, positives.query_M, strict=True):
        number = set_P[query_row]
        of_query = [*range(starts[number], starts[number + 1]), *shared]
        others = [j for j in of_query if negatives.ids_n[j] != row]
        score = query_Pd[query_row] @ positives.item_Xd[source]
        logits = negatives.vectors_nd[others] @ query_Pd[query_row]
        if negatives.shifts_n is not None:
            logits = logits + negatives.shifts_n[others]
        losses.append(torch.logsumexp(torch.cat([score[None], logits]), 0) - score)
    nll_M = torch.stack(losses) if losses else query_Pd.new_zeros(0)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def in_group_loss(
    query_Pd: Tensor, query_counts_S: list[int], positives: WeighedPositives, negatives: NegativeSets
) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of the positives among the negatives of their queries.

    Args:
        query_Pd: queries, sorted by item set; temperature and normalisation already applied.
        query_counts_S: queries of each set.
        positives: see `WeighedPositives`.
        negatives: see `NegativeSets`.

    Returns:
        The weighted sum, through which gradients go to queries, items and negatives, once; and [M], each positive's
        own, at least 0, through which none go.
    """
    leaves = (query_Pd, positives.item_Xd, negatives.vectors_nd)
    loss: tuple[Tensor, Tensor] = _InGroupLoss.apply(
        *leaves, query_counts_S, positives, negatives, torch.is_grad_enabled()
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
        with_grads: bool,
    ) -> tuple[Tensor, Tensor]:
        blocks = _Blocks(item_Xd, vectors_nd, negatives, with_grads)
        set_M = _numbers(query_counts_S, query_Pd.device)[positives.query_M]
        copies_M = _own_copies(positives.id_M, set_M, negatives, query_Pd.dtype)
        heavy_M = copies_M > _HEAVY
        heavy, light = torch.nonzero(heavy_M)[:, 0], slice(None)
        if len(heavy):
            light = torch.nonzero(~heavy_M)[:, 0]
        nll_M = query_Pd.new_empty(len(positives))
        nll_M[light], grad_Pd = blocks.run(query_Pd, query_counts_S, positives.chosen(light), copies_M[light])
        if len(heavy):  # each has a query of its own, which does not see its copies
            of = positives.chosen(heavy)
            alone = replace(of, query_M=torch.arange(len(heavy), device=heavy.device))
            alone_S = torch.bincount(set_M[heavy], minlength=len(query_counts_S)).tolist()
            nll_M[heavy], grad_Hd = blocks.run(query_Pd.index_select(0, of.query_M), alone_S, alone, None)
            if blocks.with_grads:
                grad_Pd.index_add_(0, of.query_M, grad_Hd)
        ctx.grads = (grad_Pd, blocks.grad_item_Xd, blocks.grad_vectors_nd)
        ctx.mark_non_differentiable(nll_M)
        return (positives.weight_M * nll_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made, ctx.grads = ctx.grads, None
        assert made is not None, "gradients are handed out once"
        return *(grad.mul_(grads[0]) for grad in made), None, None, None, None


class _Blocks:
    """Losses, and gradients where they are asked for, one block of queries of a set after another."""

    def __init__(self, item_Xd: Tensor, vectors_nd: Tensor, negatives: NegativeSets, with_grads: bool) -> None:
        self.item_Xd, self.vectors_nd, self.negatives = item_Xd, vectors_nd, negatives
        self.with_grads = with_grads
        self.grad_item_Xd = torch.zeros_like(item_Xd if with_grads else item_Xd[:0])
        self.grad_vectors_nd = torch.zeros_like(vectors_nd if with_grads else vectors_nd[:0])
        self.block = _BLOCK[vectors_nd.device.type]
        self.scratch = vectors_nd.new_empty(max(self.block, max(negatives.counts_S) + negatives.shared))
        self.longest = torch.linalg.vector_norm(vectors_nd, dim=1).amax() if len(vectors_nd) else 0.0
        self.farthest = 0.0  # shift
        if negatives.shifts_n is not None and len(vectors_nd):
            self.farthest = negatives.shifts_n.abs().amax()

    def run(
        self, query_Pd: Tensor, counts_S: list[int], positives: WeighedPositives, copies_M: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[M] losses, and [P, d] gradients of the queries.

        Args:
            copies_M: what of its query's sum over negatives are copies of a positive, in multiples of e^{its score}.
                None where positives and queries are the same in number, and a query does not see what has its id.
        """
        nll_M = query_Pd.new_empty(len(positives))
        grad_Pd = torch.empty_like(query_Pd if self.with_grads else query_Pd[:0])
        blocks = list(self._bounds(counts_S))
        starts = torch.tensor([0, *(rows.stop for rows, _ in blocks)], device=query_Pd.device)
        chosen = itertools.starmap(slice, itertools.pairwise(torch.searchsorted(positives.query_M, starts).tolist()))
        for (rows, columns), some in zip(blocks, chosen, strict=True):
            of = positives.chosen(some)
            hidden = of.id_M if copies_M is None else None
            query_rd, row_m = query_Pd[rows], of.query_M - rows.start
            exp_rc, top_r = self._exp(query_rd, columns, hidden)
            sum_r = exp_rc.sum(1)
            item_md, own_md = self.item_Xd.index_select(0, of.source_M), query_rd.index_select(0, row_m)
            score_m = (own_md * item_md).sum(1)
            nll_M[some], of_sum_m, of_score_m = _nll(
                score_m, (sum_r.log() + top_r)[row_m], 0.0 if copies_M is None else copies_M[some]
            )
            if not self.with_grads:
                continue
            grad_sum_r = torch.zeros_like(sum_r).index_add_(0, row_m, of.weight_M * of_sum_m)
            each_r1 = (grad_sum_r / sum_r.clamp(min=torch.finfo(sum_r.dtype).tiny))[:, None]
            of_score_m1 = (of.weight_M * of_score_m)[:, None]
            weighed_rd, grad_rd, first = query_rd * each_r1, grad_Pd[rows], 0
            for some_c in columns:
                exp = exp_rc[:, first : first + some_c.stop - some_c.start]
                grad_rd.addmm_(exp, self.vectors_nd[some_c], beta=float(first > 0))
                self.grad_vectors_nd[some_c].addmm_(exp.T, weighed_rd)
                first += exp.shape[1]
            grad_rd.mul_(each_r1).index_add_(0, row_m, item_md.mul_(of_score_m1))
            self.grad_item_Xd.index_add_(0, of.source_M, own_md.mul_(of_score_m1))
        return nll_M, grad_Pd

    def _exp(self, query_rd: Tensor, columns: list[slice], hidden_r: Tensor | None) -> tuple[Tensor, Tensor]:
        """e^{logit - top} of a block, 0 for what has the id that its query does not see; and top, [r]."""
        widths = [some.stop - some.start for some in columns]
        exp_rc = self.scratch[: len(query_rd) * sum(widths)].view(len(query_rd), sum(widths))
        for exp, some in zip(exp_rc.split(widths, 1), columns, strict=True):
            torch.mm(query_rd, self.vectors_nd[some].T, out=exp)
            if self.negatives.shifts_n is not None:
                exp.add_(self.negatives.shifts_n[some])
            if hidden_r is not None:
                exp.masked_fill_(self.negatives.ids_n[some] == hidden_r[:, None], -torch.inf)
        top_r = query_rd.new_zeros(len(query_rd))
        most = torch.linalg.vector_norm(query_rd, dim=1).amax() * self.longest + self.farthest
        if exp_rc.shape[1] and (most.is_cuda or not most <= _SAFE):
            top_r = exp_rc.amax(1).clamp_(min=torch.finfo(exp_rc.dtype).min)  # where nothing is seen, no NaN
            exp_rc.sub_(top_r[:, None])
        return exp_rc.exp_(), top_r

    def _bounds(self, counts_S: list[int]) -> Iterator[tuple[slice, list[slice]]]:
        """Queries of a block, and where the negatives of their set are, and those of all."""
        first = sum(self.negatives.counts_S)
        shared = slice(first, first + self.negatives.shared)
        query, vector = 0, 0
        for queries, vectors in zip(counts_S, self.negatives.counts_S, strict=True):
            columns = [slice(vector, vector + vectors), *([shared] if self.negatives.shared else [])]
            step = min(max(1, self.block // max(vectors + self.negatives.shared, 1)), _MOST_ROWS)
            for start in range(query, query + queries, step):
                yield slice(start, min(start + step, query + queries)), columns
            query, vector = query + queries, vector + vectors


def _nll(score_m: Tensor, sum_m: Tensor, copies_m: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """-log(e^score / (e^score + e^sum - copies e^score)), and its derivatives by the sum and by the score.

    All is scaled by the larger of the two: what the copies added to the sum is at most _HEAVY times e^score, which
    stands in the denominator anyway, so the subtraction loses little accuracy.
    """
    top_m = torch.maximum(score_m, sum_m)
    own_m, all_m = torch.exp(score_m - top_m), torch.exp(sum_m - top_m)
    others_m = all_m - copies_m * own_m
    there_m = others_m > 0
    total_m = others_m.clamp_(min=0.0) + own_m
    by_score_m = own_m * torch.where(there_m, 1.0 - copies_m, 1.0) / total_m - 1.0
    return top_m + total_m.log() - score_m, torch.where(there_m, all_m, 0.0) / total_m, by_score_m


def _own_copies(id_M: Tensor, set_M: Tensor, negatives: NegativeSets, dtype: torch.dtype) -> Tensor:
    """Sum of e^shift over each positive's own copies among the negatives of its query."""
    first, shared = sum(negatives.counts_S), negatives.shared
    copies_M = _copies(id_M, set_M, negatives, slice(0, first), negatives.counts_S, dtype)
    if shared:
        copies_M += _copies(id_M, torch.zeros_like(set_M), negatives, slice(first, None), [shared], dtype)
    return copies_M


def _copies(
    id_M: Tensor, set_M: Tensor, negatives: NegativeSets, pool: slice, counts_S: list[int], dtype: torch.dtype
) -> Tensor:
    """The same of some of the negatives."""
    ids_n = negatives.ids_n[pool]
    if not len(ids_n) or not len(id_M):
        return torch.zeros_like(id_M, dtype=dtype)
    span = torch.maximum(ids_n.amax(), id_M.amax()) + 1
    keys_n = _numbers(counts_S, id_M.device) * span + ids_n
    keys_M = set_M * span + id_M
    first_M = torch.searchsorted(keys_n, keys_M)
    copies_M = (torch.searchsorted(keys_n, keys_M, right=True) - first_M).to(dtype)
    if negatives.shifts_n is None:
        return copies_M
    shift_M = negatives.shifts_n[pool][first_M.clamp(max=len(keys_n) - 1)]
    return torch.where(copies_M > 0, copies_M * shift_M.exp(), 0.0)


def _numbers(counts_S: list[int], device: torch.device) -> Tensor:
    """0 as often as the first count says, 1 as often as the second, and so on."""
    counts = torch.tensor(counts_S, device=device)
    return torch.repeat_interleave(torch.arange(len(counts_S), device=device), counts)
