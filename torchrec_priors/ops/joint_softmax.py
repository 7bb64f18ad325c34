"""Computes the weighed negative log-likelihood of positives in a softmax over all item sets.

In the in-group softmax (Eq. 7), a positive competes with the items of its own item set. Here it
competes with the items of all sets, each scored by the query of its own set:

    nll_m = -log( e^{s_m} / (e^{s_m} + Z_m) )
    Z_m   = sum over sets s, sum over negatives j of s with id_j != id_m, of e^{s_j + shift_j}
    s_j   = q_{n s} . v_j + b_{n s}

Here n is the row of the positive, for example a position of a history, q_{n s} is the row's query
for set s, and b_{n s} a number that is added to the scores of all items of the set. The sets of a
row must not have items in common. So all scores of a row are on one scale, and their softmax is a
distribution over all items of the row's sets.

Shapes: R rows; P queries: one for each row and each set of the row, sorted by set; M positives
sorted by row; X item vectors, from which positives are taken; n negatives in all, one set after
another. Within a block of logits: r rows, c negatives, m positives.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives, own_copies
from torchrec_priors.ops.ranges import ranges
from torchrec_priors.ops.softmax_blocks import HEAVY, Blocks, logits_are_safe, nll

# A block has this many times as many logits as one of an in-group softmax: its products are for one
# item set at a time, and are too small otherwise.
TIMES = 4


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows that have queries for the same item sets.

    Attributes:
        rows: the number of rows.
        sets: the item sets, ascending.
        first_queries: for each of these sets, the index of the query of the group's first row; the
            queries of the other rows follow it.
    """

    rows: int
    sets: Sequence[int]
    first_queries: Sequence[int]


@dataclass(frozen=True)
class JointQueries:
    """The queries of all rows.

    Attributes:
        query_Pd: the queries; temperature and normalisation are already applied.
        bias_P: what is added to the scores of the items of a query's set.
        set_P: the item set of each query, ascending.
        groups: the rows, one group after another.
        row_M: the row of each positive, ascending.
    """

    query_Pd: Tensor
    bias_P: Tensor
    set_P: Tensor
    groups: Sequence[RowGroup]
    row_M: Tensor


def joint_loss_reference(
    queries: JointQueries,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the loss directly from the definition, for one positive at a time.

    It is a plain reference for tests. Its arguments and its result are those of `joint_loss`.
    """
    starts = [0, *itertools.accumulate(negatives.counts_S)]
    first_rows = [0, *itertools.accumulate(group.rows for group in queries.groups)]
    losses = []
    for row, source, own_id, own in zip(
        queries.row_M.tolist(),
        positives.source_M,
        positives.id_M,
        positives.query_M,
        strict=True,
    ):
        number = next(one for one, end in enumerate(first_rows[1:]) if row < end)
        group = queries.groups[number]
        score = queries.query_Pd[own] @ positives.item_Xd[source] + queries.bias_P[own]

        terms = [score[None]]
        for item_set, first in zip(group.sets, group.first_queries, strict=True):
            query = first + row - first_rows[number]
            columns = set(range(starts[item_set], starts[item_set + 1]))
            if hidden is not None:
                start = int(hidden.first_RP[0, query])
                count = int(hidden.count_RP[0, query])
                columns -= set(hidden.negative_H[start : start + count].tolist())
            kept = [column for column in sorted(columns) if negatives.ids_n[column] != own_id]

            logits = negatives.vectors_nd[kept] @ queries.query_Pd[query] + queries.bias_P[query]
            if negatives.shifts_n is not None:
                logits = logits + negatives.shifts_n[kept]
            terms.append(logits)
        losses.append(torch.logsumexp(torch.cat(terms), 0) - score)

    nll_M = torch.stack(losses) if losses else queries.query_Pd.new_zeros(0)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def joint_loss(
    queries: JointQueries,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the weighed negative log-likelihood of positives among the items of all sets.

    Args:
        queries: the queries of all rows.
        positives: see `WeighedPositives`. They are sorted by row (`JointQueries.row_M`), and
            `query_M` is the query of the positive's own set.
        negatives: see `NegativeSets`; without shared ones.
        hidden: negatives that are hidden from queries; None if none are.

    Returns:
        The weighed sum of the losses; and the loss of each positive, [M], which is at least 0. The
        sum has gradients with respect to queries, biases, items and negatives, for a single
        backward pass. The losses have no gradients.
    """
    assert not negatives.shared, "a joint softmax has no shared negatives"
    loss: tuple[Tensor, Tensor] = _JointLoss.apply(
        queries.query_Pd,
        queries.bias_P,
        positives.item_Xd,
        negatives.vectors_nd,
        queries,
        positives,
        negatives,
        hidden,
        torch.is_grad_enabled(),
    )
    return loss


class _JointLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_Pd: Tensor,
        bias_P: Tensor,
        item_Xd: Tensor,
        vectors_nd: Tensor,
        queries: JointQueries,
        positives: WeighedPositives,
        negatives: NegativeSets,
        hidden: Hidden | None,
        with_grads: bool,
    ) -> tuple[Tensor, Tensor]:
        # Use only the tensors that autograd passes in, because the other ones still track
        # gradients.
        queries = replace(queries, query_Pd=query_Pd, bias_P=bias_P)
        positives = replace(positives, item_Xd=item_Xd)
        negatives = replace(negatives, vectors_nd=vectors_nd)
        nll_M, *grads = _losses_and_grads(queries, positives, negatives, hidden, with_grads)
        ctx.grads = grads
        ctx.mark_non_differentiable(nll_M)
        return (positives.weight_M * nll_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        computed = ctx.grads
        ctx.grads = None
        assert computed is not None, "the gradients can be used only once"
        scaled = [grad.mul_(grads[0]) for grad in computed]
        return *scaled, None, None, None, None, None


def _losses_and_grads(
    queries: JointQueries,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None,
    with_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the losses, and the gradients of queries, biases, items and negatives."""
    blocks = _JointBlocks(positives.item_Xd, negatives.vectors_nd, negatives, with_grads)
    set_M = queries.set_P[positives.query_M]
    copies_M = own_copies(positives.id_M, set_M, negatives, queries.query_Pd.dtype)
    if hidden is not None:
        copies_M.masked_fill_(hidden.own_M, 0.0)

    heavy_M = copies_M > HEAVY
    heavy = torch.nonzero(heavy_M)[:, 0]
    light: Tensor | slice = slice(None)
    if len(heavy):
        light = torch.nonzero(~heavy_M)[:, 0]

    nll_M = queries.query_Pd.new_empty(len(positives))
    of_light = replace(queries, row_M=queries.row_M[light])
    nll_M[light], grad_Pd, grad_P = blocks.joint(
        of_light, positives.chosen(light), copies_M[light], hidden
    )

    # For a positive with heavy copies (see `HEAVY`), the sum is computed again, without the copies.
    if len(heavy):
        alone, index_H, query_M = _one_row_each(queries, heavy, set_M)
        chosen = replace(positives.chosen(heavy), query_M=query_M)
        hidden_H = None if hidden is None else hidden.of(index_H)
        nll_M[heavy], grad_Hd, grad_H = blocks.joint(alone, chosen, None, hidden_H)
        if with_grads:
            grad_Pd.index_add_(0, index_H, grad_Hd)
            grad_P.index_add_(0, index_H, grad_H)
    return nll_M, grad_Pd, grad_P, blocks.grad_item_Xd, blocks.grad_vectors_nd


def _one_row_each(
    queries: JointQueries, chosen: Tensor, set_M: Tensor
) -> tuple[JointQueries, Tensor, Tensor]:
    """Gives each of some positives a row of its own.

    Args:
        queries: the queries of all rows.
        chosen: the positives, ascending.
        set_M: the item set of each positive.

    Returns:
        The queries of the new rows; the query that each of them is a copy of; and, for each chosen
        positive, the new query of its own set.
    """
    groups = []
    parts = []
    of_positives = []
    first_row = 0
    copied = 0
    for group in queries.groups:
        row_m = queries.row_M[chosen] - first_row
        inside = (row_m >= 0) & (row_m < group.rows)
        row_h = row_m[inside]
        first_row += group.rows

        firsts = [copied + number * len(row_h) for number in range(len(group.sets))]
        groups.append(RowGroup(len(row_h), group.sets, firsts))
        parts += [first + row_h for first in group.first_queries]
        copied += len(group.sets) * len(row_h)

        # The place of the positive's own set among the sets of the group.
        sets = torch.tensor(list(group.sets), device=row_h.device)
        place_h = torch.searchsorted(sets, set_M[chosen][inside])
        first_h = torch.tensor(firsts, device=row_h.device)[place_h]
        of_positives.append(first_h + torch.arange(len(row_h), device=row_h.device))

    index_H = torch.cat(parts)
    row_M = torch.arange(len(chosen), device=index_H.device)
    alone = JointQueries(
        queries.query_Pd[index_H],
        queries.bias_P[index_H],
        queries.set_P[index_H],
        groups,
        row_M,
    )
    return alone, index_H, torch.cat(of_positives)


@dataclass(frozen=True)
class _Pool:
    """The negatives of one set in a block, and the queries that score them.

    Attributes:
        queries: the queries of the block's rows for this set.
        negatives: the negatives of the set.
        columns: their columns in the block.
    """

    queries: slice
    negatives: slice
    columns: slice


class _JointBlocks(Blocks):
    """Computes losses, and gradients if they are needed, one block of rows after another."""

    def __init__(
        self, item_Xd: Tensor, vectors_nd: Tensor, negatives: NegativeSets, with_grads: bool
    ) -> None:
        super().__init__(
            item_Xd, vectors_nd, negatives, with_grads, widest=len(vectors_nd), times=TIMES
        )
        self.starts = [0, *itertools.accumulate(negatives.counts_S)]

    def joint(
        self,
        queries: JointQueries,
        positives: WeighedPositives,
        copies_M: Tensor | None,
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the losses, and the gradients of queries and biases.

        The gradients of items and negatives are added to `grad_item_Xd` and `grad_vectors_nd`.

        Args:
            queries, positives: as for `joint_loss`.
            copies_M: for each positive, the sum of the terms of its copies, as a multiple of
                e^{s_m}. None if every row has exactly one positive; the row's sum is then computed
                without the copies.
            hidden: negatives that are hidden from queries; None if none are.
        """
        query_Pd = queries.query_Pd
        score_M = self._scores(query_Pd, positives) + queries.bias_P[positives.query_M]
        own_id_R = None
        if copies_M is None:
            own_id_R = positives.id_M
            copies_M = torch.zeros_like(score_M)

        kept = len(query_Pd) if self.with_grads else 0
        grad_Pd = query_Pd.new_zeros(kept, query_Pd.shape[1])
        grad_P = query_Pd.new_zeros(kept)
        rows = sum(group.rows for group in queries.groups)
        sum_R, top_R = query_Pd.new_empty(2, rows)
        has_others_M = torch.empty_like(score_M, dtype=torch.bool)

        largest_bias = 0.0
        if len(query_Pd):
            largest_bias = float(queries.bias_P.abs().amax())
        safe = logits_are_safe(query_Pd, self.negatives, largest_bias)

        for block, pools in self._row_blocks(queries):
            own_id_r = None if own_id_R is None else own_id_R[block]
            exp_rc, top_r = self._joint_exp(queries, block, pools, own_id_r, hidden, safe)
            sum_r = torch.sum(exp_rc, 1, out=sum_R[block])
            top_R[block] = top_r

            bounds = torch.tensor([block.start, block.stop], device=queries.row_M.device)
            first, end = torch.searchsorted(queries.row_M, bounds).tolist()
            chosen = slice(first, end)
            row_m = queries.row_M[chosen] - block.start
            by_sum_r1 = self._by_sum(
                sum_r,
                top_r,
                row_m,
                score_M[chosen],
                copies_M[chosen],
                positives,
                chosen,
                has_others_M,
            )
            if by_sum_r1 is not None:
                for pool in pools:
                    exp = exp_rc[:, pool.columns]
                    self._through_sum(
                        exp,
                        [pool.negatives],
                        query_Pd[pool.queries],
                        by_sum_r1,
                        grad_Pd[pool.queries],
                    )
                    grad_P[pool.queries] = exp.sum(1) * by_sum_r1[:, 0]

        log_sum_M = (sum_R.log_() + top_R)[queries.row_M]
        nll_M, by_score_M = nll(score_M, log_sum_M, copies_M, has_others_M)
        if self.with_grads:
            by_score_M = positives.weight_M * by_score_M
            self._through_scores(query_Pd, positives, by_score_M, grad_Pd)
            grad_P.index_add_(0, positives.query_M, by_score_M)
        return nll_M, grad_Pd, grad_P

    def _row_blocks(self, queries: JointQueries) -> Iterator[tuple[slice, list[_Pool]]]:
        """Yields the rows of each block, and the negatives of each of their sets."""
        first_row = 0
        for group in queries.groups:
            widths = [self.starts[one + 1] - self.starts[one] for one in group.sets]
            step = max(1, self.block // max(sum(widths), 1))
            for start in range(0, group.rows, step):
                stop = min(start + step, group.rows)
                pools = []
                column = 0
                of_sets = zip(group.sets, group.first_queries, widths, strict=True)
                for item_set, first, width in of_sets:
                    pools.append(
                        _Pool(
                            queries=slice(first + start, first + stop),
                            negatives=slice(self.starts[item_set], self.starts[item_set + 1]),
                            columns=slice(column, column + width),
                        )
                    )
                    column += width
                yield slice(first_row + start, first_row + stop), pools
            first_row += group.rows

    def _joint_exp(
        self,
        queries: JointQueries,
        rows: slice,
        pools: list[_Pool],
        own_id_r: Tensor | None,
        hidden: Hidden | None,
        safe: bool,
    ) -> tuple[Tensor, Tensor | float]:
        """Returns e^{logit - top} for the logits of a block, [r, c], and top, [r] or 0.

        For each row, top is its largest logit. If logits are safe, top is 0. The exponentials are 0
        for negatives that are left out or hidden.
        """
        count = rows.stop - rows.start
        width = sum(pool.columns.stop - pool.columns.start for pool in pools)
        exp_rc = self.scratch[: count * width].view(count, width)
        for pool in pools:
            exp = exp_rc[:, pool.columns]
            torch.mm(queries.query_Pd[pool.queries], self.vectors_nd[pool.negatives].T, out=exp)
            exp.add_(queries.bias_P[pool.queries, None])
            if self.negatives.shifts_n is not None:
                exp.add_(self.negatives.shifts_n[pool.negatives])
            if own_id_r is not None:
                is_own = self.negatives.ids_n[pool.negatives] == own_id_r[:, None]
                exp.masked_fill_(is_own, -torch.inf)
            if hidden is not None:
                row, index = ranges(
                    hidden.first_RP[0, pool.queries], hidden.count_RP[0, pool.queries]
                )
                column = hidden.negative_H[index] - pool.negatives.start
                exp.index_put_((row, column), exp.new_tensor(-torch.inf))
        return self._exponentials(exp_rc, safe)
