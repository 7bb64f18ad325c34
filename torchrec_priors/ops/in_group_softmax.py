"""Computes the weighted sum of the negative logarithms of in-group softmaxes (Eq. 7).

Each softmax is over one positive and the negatives of its query:

    nll_m = -log( e^{s_m} / (e^{s_m} + Z_m) )
    Z_m = sum of e^{s_j + shift_j} over the query's negatives j with id_j != id_m

s_m and s_j are the dot products of the query with the positive m and a negative j, and shift_j is a
number that is added to the logit of j (see `NegativeSets`). A query's negatives are those of its
item set and those that all queries share, except negatives that are hidden from the query. An id is
the number of a row in the item table. The copies of a positive are the negatives with its id.

On a CPU, a C++ kernel computes it (`in_group_softmax_native.py`); without a compiler,
`softmax_blocks.py` does, block by block. On a GPU, kernels do the same for all item sets at once
(`SOFTMAX`).

Shapes: P queries sorted by item set; M positives sorted by query; X item vectors, from which
positives are taken; S item sets; n negatives in all, one set after another, the shared ones last.
"""

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import GpuKernel, has_kernels, on_gpu
from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import (
    NegativeSets,
    QuerySets,
    WeighedPositives,
    own_copies,
)
from torchrec_priors.ops.in_group_softmax_native import (
    has_native_softmax,
    in_group_softmax_native,
)
from torchrec_priors.ops.ranges import numbers
from torchrec_priors.ops.softmax_blocks import HEAVY, Blocks

# The largest width of queries that the GPU kernels support.
_MOST_WIDTH = 256


def in_group_loss_reference(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the loss directly from the definition, for one positive at a time.

    It is a plain reference for tests. Its arguments and its result are those of `in_group_loss`.
    """
    set_P = [number for number, count in enumerate(query_counts_S) for _ in range(count)]
    starts = [0, *itertools.accumulate(negatives.counts_S)]
    shared = list(range(starts[-1], starts[-1] + negatives.shared))

    losses = []
    of_positives = (positives.source_M, positives.id_M, positives.query_M)
    for source, own_id, query in zip(*of_positives, strict=True):
        number = set_P[query]
        columns = [*range(starts[number], starts[number + 1]), *shared]
        if hidden is not None:
            ranges = zip(hidden.first_RP[:, query], hidden.count_RP[:, query], strict=True)
            for first, count in ranges:
                of_query = hidden.negative_H[first : first + count]
                columns = [column for column in columns if column not in of_query]
        columns = [column for column in columns if negatives.ids_n[column] != own_id]

        score = query_Pd[query] @ positives.item_Xd[source]
        logits = negatives.vectors_nd[columns] @ query_Pd[query]
        if negatives.shifts_n is not None:
            logits = logits + negatives.shifts_n[columns]
        losses.append(torch.logsumexp(torch.cat([score[None], logits]), 0) - score)

    nll_M = torch.stack(losses) if losses else query_Pd.new_zeros(0)
    return (positives.weight_M * nll_M).sum(), nll_M.detach()


def in_group_loss(
    query_Pd: Tensor,
    query_counts_S: list[int] | QuerySets,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the weighted negative log-likelihood of positives among their queries' negatives.

    Args:
        query_Pd: queries, sorted by item set; temperature and normalisation are already applied.
        query_counts_S: number of queries of each set, or a `QuerySets` on the device. With a
            `QuerySets`, the GPU kernels run without making the host wait.
        positives: see `WeighedPositives`.
        negatives: see `NegativeSets`.
        hidden: negatives that are hidden from queries; None if none are.

    Returns:
        The weighted sum of the losses; and the loss of each positive, [M], which is at least 0. The
        sum has gradients with respect to queries, items and negatives, for a single backward pass.
        The losses have no gradients.
    """
    loss: tuple[Tensor, Tensor] = _InGroupLoss.apply(
        query_Pd,
        positives.item_Xd,
        negatives.vectors_nd,
        query_counts_S,
        positives,
        negatives,
        hidden,
        torch.is_grad_enabled(),
    )
    return loss


class _InGroupLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_Pd: Tensor,
        item_Xd: Tensor,
        vectors_nd: Tensor,
        query_counts_S: list[int] | QuerySets,
        positives: WeighedPositives,
        negatives: NegativeSets,
        hidden: Hidden | None,
        with_grads: bool,
    ) -> tuple[Tensor, Tensor]:
        # Use only the tensors that autograd passes in, because the ones stored in `positives` and
        # `negatives` still track gradients.
        positives = replace(positives, item_Xd=item_Xd)
        negatives = replace(negatives, vectors_nd=vectors_nd)
        compute = _with_kernels if _have_kernels(query_Pd) else _by_blocks
        nll_M, *computed = compute(
            query_Pd, query_counts_S, positives, negatives, hidden, with_grads
        )
        ctx.grads = computed
        ctx.mark_non_differentiable(nll_M)
        return (positives.weight_M * nll_M).sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        computed = ctx.grads
        ctx.grads = None
        assert computed is not None, "the gradients can be used only once"

        # The gradients are scaled in place, because they are used only once. The factor of a loss
        # that is not divided is 1; on a GPU, the host would have to wait for it.
        factor = grads[0]
        if on_gpu(factor) or float(factor) != 1.0:
            computed = [grad.mul_(factor) for grad in computed]
        return *computed, None, None, None, None, None


# The losses [M], and the gradients of queries, items and negatives; these are empty if no gradients
# are needed.
_Computed = tuple[Tensor, Tensor, Tensor, Tensor]


def _have_kernels(query_Pd: Tensor) -> bool:
    """Returns whether the GPU kernels support queries of this type and width."""
    fits = query_Pd.dtype == torch.float32 and query_Pd.shape[1] <= _MOST_WIDTH
    return fits and has_kernels(query_Pd)


def _with_kernels(
    query_Pd: Tensor,
    sets: list[int] | QuerySets,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None,
    with_grads: bool,
) -> _Computed:
    """Computes losses and gradients of all sets with the GPU kernels."""
    if not isinstance(sets, QuerySets):
        sets = QuerySets.of(sets, query_Pd.device)
    query_P1 = torch.arange(len(query_Pd) + 1, device=query_Pd.device)
    first_positive_P1 = torch.searchsorted(positives.query_M, query_P1)
    computed: _Computed = SOFTMAX(
        query_Pd,
        sets.set_P,
        sets.first_S1,
        first_positive_P1,
        positives,
        negatives.on_device(),
        hidden,
        with_grads,
    )
    return computed


def _by_blocks(
    query_Pd: Tensor,
    sets: list[int] | QuerySets,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None,
    with_grads: bool,
) -> _Computed:
    """Computes losses and gradients, one block of queries after another."""
    query_counts_S = sets.counts() if isinstance(sets, QuerySets) else sets
    counts_S = torch.tensor(query_counts_S, device=query_Pd.device)
    set_M = numbers(counts_S)[positives.query_M]

    # Copies that are hidden from the query are not in its sum, so they are not subtracted.
    copies_M = own_copies(positives.id_M, set_M, negatives, query_Pd.dtype)
    if hidden is not None:
        copies_M.masked_fill_(hidden.own_M, 0.0)

    heavy_M = copies_M > HEAVY
    heavy = torch.nonzero(heavy_M)[:, 0]
    light: Tensor | slice = slice(None)
    if len(heavy):
        light = torch.nonzero(~heavy_M)[:, 0]

    of_light = positives.chosen(light)
    of_light_and_sets = (query_Pd, query_counts_S, of_light, copies_M[light])
    if has_native_softmax(query_Pd, negatives):
        nll_l, grad_Pd, grad_item_Xd, grad_vectors_nd = in_group_softmax_native(
            *of_light_and_sets, negatives, hidden, with_grads
        )
        if not len(heavy):
            return nll_l, grad_Pd, grad_item_Xd, grad_vectors_nd
        blocks = _blocks(positives, negatives, with_grads)
        blocks.grad_item_Xd = grad_item_Xd
        blocks.grad_vectors_nd = grad_vectors_nd
    else:
        blocks = _blocks(positives, negatives, with_grads)
        nll_l, grad_Pd = blocks.run(*of_light_and_sets, hidden)
    nll_M = query_Pd.new_empty(len(positives))
    nll_M[light] = nll_l

    # For a positive with heavy copies (see `HEAVY`), the query's sum is computed again, without
    # the copies.
    if len(heavy):
        chosen = positives.chosen(heavy)
        one_a_query = replace(chosen, query_M=torch.arange(len(heavy), device=heavy.device))
        heavy_counts = torch.bincount(set_M[heavy], minlength=len(query_counts_S)).tolist()
        heavy_hidden = None if hidden is None else hidden.of(chosen.query_M)
        nll_M[heavy], grad_Hd = blocks.run(
            query_Pd.index_select(0, chosen.query_M),
            heavy_counts,
            one_a_query,
            None,
            heavy_hidden,
        )
        if blocks.with_grads:
            grad_Pd.index_add_(0, chosen.query_M, grad_Hd)
    return nll_M, grad_Pd, blocks.grad_item_Xd, blocks.grad_vectors_nd


def _blocks(positives: WeighedPositives, negatives: NegativeSets, with_grads: bool) -> Blocks:
    """Returns what computes the losses block by block."""
    widest = max(negatives.counts_S) + negatives.shared
    return Blocks(positives.item_Xd, negatives.vectors_nd, negatives, with_grads, widest=widest)


def _of_sets(
    query_Pd: Tensor,
    set_P: Tensor,
    first_query_S1: Tensor,
    first_positive_P1: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None,
    with_grads: bool,
) -> _Computed:
    """The reference of `in_group_softmax` in `in_group_softmax_triton.py`.

    Args:
        query_Pd: the queries.
        set_P, first_query_S1: see `QuerySets`.
        first_positive_P1: the first positive of each query; the last entry is M.
        positives, negatives: as for `in_group_loss`; `negatives` has `first_S1`.
        hidden: negatives that are hidden from queries; None if none are.
        with_grads: whether gradients are needed.

    Returns:
        The losses of the positives, [M]. The gradients of the weighted sum of the losses with
        respect to queries, items and negatives; they are empty if they are not needed.
    """
    counts_S = first_query_S1.diff().tolist()
    return _by_blocks(query_Pd, counts_S, positives, negatives, hidden, with_grads)


SOFTMAX = GpuKernel("in_group_softmax", "in_group_softmax_triton", 7, _of_sets)
