"""The in-group softmax on a CPU: a C++ kernel computes the losses and all gradients.

The whole softmax is one parallel region, in which threads take tasks of up to 1,024 queries.
Results and gradients are the same, bit for bit, whatever the number of threads.

Shapes: P queries sorted by item set; M positives sorted by query; X item vectors; S item sets; n
negatives in all, one set after another, the shared ones last.
"""

import ctypes
import itertools
from pathlib import Path

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import on_gpu
from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.native import ENOUGH, available, load_native, threads_for
from torchrec_priors.ops.products import PIECES, chosen_pieces
from torchrec_priors.ops.softmax_blocks import logits_are_safe

_SOURCE = Path(__file__).with_suffix(".cpp")
# The width must be a multiple of a tile's widest row.
_COLUMNS = 32
# The largest number of negatives of a query; a thread keeps the logits of 64 queries.
_MOST_NEGATIVES = 1 << 17


def has_native_softmax(query_Pd: Tensor, negatives: NegativeSets) -> bool:
    """Returns whether the kernel can process these queries and negatives on this machine."""
    if on_gpu(query_Pd) or query_Pd.dtype != torch.float32 or query_Pd.shape[1] % _COLUMNS:
        return False
    fits = max(negatives.counts_S) + negatives.shared <= _MOST_NEGATIVES
    return fits and load_native(_SOURCE) is not None


def has_products(kind: str, width: int) -> bool:
    """Returns whether vectors of this width can be multiplied in this way on this machine.

    Args:
        kind: a key of `PIECES`. All machines have `fp32`.
        width: d.
    """
    pieces = PIECES[kind]
    if not pieces:
        return True
    library = load_native(_SOURCE)
    return not width % _COLUMNS and library is not None and library.most_pieces() >= pieces


def in_group_softmax_native(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positives: WeighedPositives,
    copies_M: Tensor,
    negatives: NegativeSets,
    hidden: Hidden | None,
    with_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the losses, and the gradients of queries, items and negatives.

    The gradients are empty if `with_grads` is false.

    Args:
        query_Pd: queries, sorted by item set.
        query_counts_S: number of queries of each set.
        positives: positives of the queries.
        copies_M: for each positive, the sum of the terms of its copies, as a multiple of e^{s_m}.
        negatives: see `NegativeSets`.
        hidden: negatives that are hidden from queries; None if none are.
        with_grads: whether gradients are needed.
    """
    library = available(_SOURCE)
    query_Pd = query_Pd.detach().contiguous()
    vectors_nd = negatives.vectors_nd.detach().contiguous()
    item_Xd = positives.item_Xd.detach().contiguous()

    first_query = torch.tensor([0, *itertools.accumulate(query_counts_S)])
    first_negative = torch.tensor([0, *itertools.accumulate(negatives.counts_S)])
    first_positive = torch.zeros(len(query_Pd) + 1, dtype=torch.int64)
    positives_P = torch.bincount(positives.query_M, minlength=len(query_Pd))
    torch.cumsum(positives_P, 0, out=first_positive[1:])

    nll_M = torch.empty(len(positives))
    grads = (
        torch.empty_like(query_Pd if with_grads else query_Pd[:0]),
        torch.zeros_like(item_Xd if with_grads else item_Xd[:0]),
        torch.zeros_like(vectors_nd if with_grads else vectors_nd[:0]),
    )

    products = sum(
        queries * (own + negatives.shared)
        for queries, own in zip(query_counts_S, negatives.counts_S, strict=True)
    )
    threads = threads_for(products * query_Pd.shape[1], ENOUGH)
    shifts_n = None if negatives.shifts_n is None else negatives.shifts_n.float()
    lists: list[Tensor | None] = [None, None, None]
    if hidden is not None:
        lists = [hidden.negative_H, hidden.first_RP, hidden.count_RP]

    # The list keeps the tensors whose addresses the kernel gets.
    tensors: list[Tensor | None] = [
        query_Pd,
        vectors_nd,
        shifts_n,
        item_Xd,
        first_query,
        first_negative,
        positives.source_M,
        positives.query_M,
        first_positive,
        positives.weight_M.float(),
        copies_M,
        *lists,
    ]
    tensors = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    given = _Input(
        *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
        query_Pd.shape[1],
        len(query_Pd),
        len(query_counts_S),
        negatives.shared,
        len(item_Xd),
        len(positives),
        logits_are_safe(query_Pd, negatives),
        with_grads,
        threads,
        chosen_pieces(library),
    )
    out = _Output(nll_M.data_ptr(), *(grad.data_ptr() for grad in grads))

    if library.in_group_softmax(ctypes.byref(given), ctypes.byref(out)):
        raise MemoryError("in-group softmax: no memory for the logits of a block")
    return nll_M, *grads


class _Input(ctypes.Structure):
    """The inputs of the kernel; the C++ code has the same fields."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                "query",
                "vectors",
                "shifts",
                "items",
                "first_query",
                "first_negative",
                "source",
                "query_of",
                "first_positive",
                "weight",
                "copies",
                "hidden",
                "first_hidden",
                "hidden_count",
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in (
                "width",
                "queries",
                "sets",
                "shared",
                "item_count",
                "positives",
                "safe",
                "with_grads",
                "threads",
                "pieces",
            )
        ),
    )


class _Output(ctypes.Structure):
    """Where the kernel writes; the C++ code has the same fields."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("nll", "grad_query", "grad_items", "grad_vectors")
    )
