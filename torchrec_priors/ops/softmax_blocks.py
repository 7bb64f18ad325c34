"""The blocks of logits in which a softmax over sampled negatives is computed.

The sum over a query's negatives is computed once. For each positive, the terms of its copies are
then subtracted. The weights of the positives are known beforehand, so gradients are computed
together with the losses, block by block, while the logits of a block are in the cache. Logits are
computed once, and nothing of size [queries, negatives] is kept. With D_m = e^{s_m} + Z_m (see
`in_group_softmax.py`),

    d nll_m / d s_m             = e^{s_m} / D_m - 1
    d nll_m / d (s_j + shift_j) = e^{s_j + shift_j} / D_m

So all gradients through a query's sum need only one number per query: the sum of weight_m / D_m
over the query's positives (`by_sum_r1`).

Shapes: P queries sorted by item set; M positives sorted by query; X item vectors, from which
positives are taken; S item sets; n negatives in all, one set after another, the shared ones last.
Within a block (see `Block`): r queries, c negatives, m positives.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import kind_of_device, on_gpu
from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives

# Number of logits in a block. On a CPU, they fit into the caches of two cores.
BLOCK = {"cpu": 1 << 19, "cuda": 1 << 24}

# Number of positives that are gathered at a time, so that their vectors fit into the cache.
POSITIVES = 1 << 11

# If all logits are between -60 and 60, their maximum is not subtracted before they are
# exponentiated, because no exponential can overflow.
_SAFE = 60.0

# If the terms of a positive's copies add up to more than this multiple of e^{s_m}, the sum is
# computed again without them, because subtracting them would lose accuracy.
HEAVY = 256.0


@dataclass(frozen=True)
class Block:
    """Some queries of one item set, whose logits are computed together.

    Attributes:
        rows: the queries.
        columns: the negatives of the item set, and the shared ones.
        positives: the positives of the queries.
    """

    rows: slice
    columns: list[slice]
    positives: slice


class Blocks:
    """Computes losses, and gradients if they are needed, one block of queries after another."""

    def __init__(
        self,
        item_Xd: Tensor,
        vectors_nd: Tensor,
        negatives: NegativeSets,
        with_grads: bool,
        *,
        widest: int,
        times: int = 1,
    ) -> None:
        """
        Args:
            item_Xd: the vectors of items, from which positives are taken.
            vectors_nd: the vectors of the negatives.
            negatives: what else is known of them.
            with_grads: whether gradients are needed.
            widest: the largest number of negatives of a query.
            times: how many times as many logits as `BLOCK` a block has.
        """
        self.item_Xd = item_Xd
        self.vectors_nd = vectors_nd
        self.negatives = negatives
        self.with_grads = with_grads
        self.grad_item_Xd = torch.zeros_like(item_Xd if with_grads else item_Xd[:0])
        self.grad_vectors_nd = torch.zeros_like(vectors_nd if with_grads else vectors_nd[:0])

        self.block = times * BLOCK[kind_of_device(vectors_nd)]
        self.scratch = vectors_nd.new_empty(max(self.block, widest))

    def run(
        self,
        query_Pd: Tensor,
        counts_S: list[int],
        positives: WeighedPositives,
        copies_M: Tensor | None,
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the losses of positives, and the gradients of their queries.

        The gradients of items and negatives are added to the attributes `grad_item_Xd` and
        `grad_vectors_nd`.

        Args:
            query_Pd: queries, sorted by item set.
            counts_S: number of queries of each set.
            positives: positives of the queries.
            copies_M: for each positive, the sum of the terms of its copies, as a multiple of
                e^{s_m}. None if every query has exactly one positive; the query's sum is then
                computed without the copies.
            hidden: negatives that are hidden from queries; None if none are.

        Returns:
            [M] losses, and [P, d] gradients (empty if no gradients are needed).
        """
        own_id_P = None
        score_M = self._scores(query_Pd, positives)
        if copies_M is None:
            own_id_P = positives.id_M
            copies_M = torch.zeros_like(score_M)

        grad_Pd = torch.empty_like(query_Pd if self.with_grads else query_Pd[:0])
        sum_P, top_P = query_Pd.new_empty(2, len(query_Pd))
        # Whether the positive has negatives other than copies of itself.
        has_others_M = torch.empty_like(score_M, dtype=torch.bool)
        safe = logits_are_safe(query_Pd, self.negatives)

        for block in self._blocks(counts_S, positives.query_M):
            rows = block.rows
            chosen = block.positives

            # Sums over the negatives, for every query of the block.
            own_id_r = None if own_id_P is None else own_id_P[rows]
            cells = None if hidden is None else hidden.cells(rows, block.columns)
            exp_rc, top_r = self._exp(query_Pd[rows], block.columns, own_id_r, cells, safe)
            sum_r = torch.sum(exp_rc, 1, out=sum_P[rows])
            top_P[rows] = top_r

            row_m = positives.query_M[chosen] - rows.start
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
                self._through_sum(exp_rc, block.columns, query_Pd[rows], by_sum_r1, grad_Pd[rows])

        log_sum_M = (sum_P.log_() + top_P)[positives.query_M]
        nll_M, by_score_M = nll(score_M, log_sum_M, copies_M, has_others_M)
        if self.with_grads:
            self._through_scores(query_Pd, positives, positives.weight_M * by_score_M, grad_Pd)
        return nll_M, grad_Pd

    def _by_sum(
        self,
        sum_r: Tensor,
        top_r: Tensor | float,
        row_m: Tensor,
        score_m: Tensor,
        copies_m: Tensor,
        positives: WeighedPositives,
        chosen: slice,
        has_others_M: Tensor,
    ) -> Tensor | None:
        """Returns the derivatives of the loss with respect to a block's sums, [r, 1].

        It returns None if no gradients are needed. `has_others_M` is set for the chosen positives.

        Args:
            sum_r: the sums of the block's exponentials.
            top_r: what was subtracted from the logits.
            row_m: the row of each positive in the block.
            score_m, copies_m: the scores and the copies of the block's positives.
            positives: all positives.
            chosen: those of the block.
            has_others_M: whether a positive has negatives other than copies of itself.
        """
        # The sum without each positive's copies. `own_m` is clamped to the largest finite number,
        # because 0 * inf would be NaN if a positive has no copies.
        top_m = top_r if isinstance(top_r, float) else top_r[row_m]
        own_m = torch.exp(score_m - top_m)
        own_m.clamp_(max=torch.finfo(own_m.dtype).max)
        others_m = sum_r[row_m] - copies_m * own_m
        has_others_m = torch.le(others_m, 0.0, out=has_others_M[chosen])
        has_others_m.logical_not_()  # a NaN counts as true, so that it propagates
        if not self.with_grads:
            return None

        by_sum_m = positives.weight_M[chosen] / (others_m + own_m)
        by_sum_m = torch.where(has_others_m, by_sum_m, 0.0)
        return torch.zeros_like(sum_r).index_add_(0, row_m, by_sum_m)[:, None]

    def _scores(self, query_Pd: Tensor, positives: WeighedPositives) -> Tensor:
        """Returns the score of every positive, [M]."""
        score_M = query_Pd.new_empty(len(positives))
        for piece in pieces(len(positives)):
            item_md = self.item_Xd.index_select(0, positives.source_M[piece])
            query_md = query_Pd.index_select(0, positives.query_M[piece])
            torch.sum(item_md.mul_(query_md), 1, out=score_M[piece])
        return score_M

    def _through_scores(
        self, query_Pd: Tensor, positives: WeighedPositives, by_score_M: Tensor, grad_Pd: Tensor
    ) -> None:
        """Adds the gradients that queries and items receive through the positives' scores."""
        for piece in pieces(len(positives)):
            query_m = positives.query_M[piece]
            source_m = positives.source_M[piece]
            by_score_m1 = by_score_M[piece, None]

            item_md = self.item_Xd.index_select(0, source_m)
            query_md = query_Pd.index_select(0, query_m)
            grad_Pd.index_add_(0, query_m, item_md.mul_(by_score_m1))
            self.grad_item_Xd.index_add_(0, source_m, query_md.mul_(by_score_m1))

    def _through_sum(
        self,
        exp_rc: Tensor,
        columns: list[slice],
        query_rd: Tensor,
        by_sum_r1: Tensor,
        grad_rd: Tensor,
    ) -> None:
        """Computes the gradients that a block's queries and negatives receive through the sums.

        The gradients of queries are written, and those of negatives are added to earlier ones.

        Args:
            exp_rc: see `_exp`.
            columns: the negatives of the block.
            query_rd: the queries of the block.
            by_sum_r1: derivatives of the loss with respect to the sums of `exp_rc`.
            grad_rd: uninitialised memory, to which the gradients of the queries are written.
        """
        weighed_rd = query_rd * by_sum_r1
        first = 0
        for pool in columns:
            width = pool.stop - pool.start
            exp = exp_rc[:, first : first + width]
            # The first product overwrites the uninitialised memory, and the second adds to it.
            grad_rd.addmm_(exp, self.vectors_nd[pool], beta=float(first > 0))
            self.grad_vectors_nd[pool].addmm_(exp.T, weighed_rd)
            first += width
        grad_rd.mul_(by_sum_r1)

    def _exp(
        self,
        query_rd: Tensor,
        columns: list[slice],
        own_id_r: Tensor | None,
        cells: tuple[Tensor, Tensor] | None,
        safe: bool,
    ) -> tuple[Tensor, Tensor | float]:
        """Returns e^{logit - top} for the logits of a block, and top.

        For each query, top is its largest logit. If logits are safe, top is 0.

        Args:
            query_rd: the queries of the block.
            columns: the negatives of the block.
            own_id_r: for each query, the id to leave out; None to leave out none.
            cells: (row, column) of all hidden negatives; None if there are none.
            safe: see `logits_are_safe`.

        Returns:
            The exponentials, [r, c], which are 0 for negatives that are left out or hidden; and
            top, [r] or 0.
        """
        widths = [pool.stop - pool.start for pool in columns]
        size = len(query_rd) * sum(widths)
        exp_rc = self.scratch[:size].view(len(query_rd), sum(widths))

        for exp, pool in zip(exp_rc.split(widths, 1), columns, strict=True):
            torch.mm(query_rd, self.vectors_nd[pool].T, out=exp)
            if self.negatives.shifts_n is not None:
                exp.add_(self.negatives.shifts_n[pool])
            if own_id_r is not None:
                exp.masked_fill_(self.negatives.ids_n[pool] == own_id_r[:, None], -torch.inf)
        if cells is not None:
            exp_rc.index_put_(cells, exp_rc.new_tensor(-torch.inf))

        return self._exponentials(exp_rc, safe)

    def _exponentials(self, exp_rc: Tensor, safe: bool) -> tuple[Tensor, Tensor | float]:
        """Replaces logits by e^{logit - top}, in place; returns them and top (see `_exp`)."""
        if safe or not exp_rc.shape[1]:
            return exp_rc.exp_(), 0.0

        # If a query has no negatives, top must not be -inf: -inf minus -inf would be NaN.
        top_r = exp_rc.amax(1).clamp_(min=torch.finfo(exp_rc.dtype).min)
        return exp_rc.sub_(top_r[:, None]).exp_(), top_r

    def _blocks(self, counts_S: list[int], query_M: Tensor) -> list[Block]:
        """Returns the blocks of all queries, in the order of the queries.

        Args:
            counts_S: number of queries of each set.
            query_M: query of each positive, ascending.
        """
        bounds = list(self._bounds(counts_S))
        ends = torch.tensor([0, *(rows.stop for rows, _ in bounds)], device=query_M.device)
        first_positives = torch.searchsorted(query_M, ends).tolist()

        blocks = []
        for (rows, columns), (start, end) in zip(
            bounds, itertools.pairwise(first_positives), strict=True
        ):
            blocks.append(Block(rows, columns, slice(start, end)))
        return blocks

    def _bounds(self, counts_S: list[int]) -> Iterator[tuple[slice, list[slice]]]:
        """Yields the queries and the negatives of each block.

        The negatives are those of the item set, then the shared ones.
        """
        in_sets = sum(self.negatives.counts_S)
        shared = slice(in_sets, in_sets + self.negatives.shared)

        query = 0
        vector = 0
        for queries, vectors in zip(counts_S, self.negatives.counts_S, strict=True):
            columns = [slice(vector, vector + vectors)]
            if self.negatives.shared:
                columns.append(shared)

            width = max(vectors + self.negatives.shared, 1)
            step = max(1, self.block // width)
            for start in range(query, query + queries, step):
                yield slice(start, min(start + step, query + queries)), columns

            query += queries
            vector += vectors


def logits_are_safe(query_Pd: Tensor, negatives: NegativeSets, largest_bias: float = 0.0) -> bool:
    """Returns True if all logits are so small that no exponential can overflow.

    `largest_bias` is the largest absolute value of what else is added to logits.

    On a GPU this is not checked, because the host would have to wait for the device. The result is
    then False.
    """
    vectors_nd = negatives.vectors_nd
    if on_gpu(query_Pd) or not len(query_Pd) or not len(vectors_nd):
        return False

    longest_query = float(torch.linalg.vector_norm(query_Pd, dim=1).amax())
    longest_vector = float(torch.linalg.vector_norm(vectors_nd, dim=1).amax())
    shifts_n = negatives.shifts_n
    largest_shift = 0.0 if shifts_n is None else float(shifts_n.abs().amax())
    return longest_query * longest_vector + largest_shift + largest_bias <= _SAFE


def pieces(number: int) -> Iterator[slice]:
    """Divides `number` positives into slices whose vectors fit into the cache."""
    for start in range(0, number, POSITIVES):
        yield slice(start, start + POSITIVES)


def nll(
    score_M: Tensor, sum_M: Tensor, copies_M: Tensor, has_others_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns -log(e^score / (e^score + e^sum - copies * e^score)), and its derivative.

    Here `sum` is the logarithm of the query's sum. The derivative is with respect to the score. If
    the positive has no negatives other than its copies, both results are 0.

    To avoid overflow, all terms are divided by e^{max(score, sum)}. The subtraction loses little
    accuracy: the subtracted term is at most HEAVY * e^score, and the denominator is at least
    e^score, so the rounding error is small relative to the denominator.
    """
    top_M = torch.maximum(score_M, sum_M)
    own_M = torch.exp(score_M - top_M)
    others_M = (torch.exp(sum_M - top_M) - copies_M * own_M).clamp_(min=0.0)

    nll_M = top_M + (others_M + own_M).log() - score_M
    by_score_M = own_M * (1.0 - copies_M) / (others_M + own_M) - 1.0
    return torch.where(has_others_M, nll_M, 0.0), torch.where(has_others_M, by_score_M, 0.0)
