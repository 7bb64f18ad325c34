"""Replaces one optimisation of a training step by the plain way to compute the same result.

Without an optimisation, this happens instead:

jagged attention   every sequence is padded to the longest of the batch, and all attention weights
                   are kept for backward
fused softmax      the logits of all queries of a set with its negatives are kept for backward
grouped adapters   every adapter is applied to every row, and one of the results is used
fused layers       norm, SiLU and gate of a layer are operations of PyTorch, one after another

Shapes: N tokens of all sequences, B sequences, T positions of a padded sequence, H attention heads,
D width of a head, L distances, C time buckets, P queries, S item sets, M positives, X items, n
negatives, G adapters, R rows that go through an adapter, d width.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.residual_adapters import Runs
from torchrec_priors.ops.time_bias import TimeBias, time_bucket


def padded_attention(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    offsets_B1: Tensor,
    bias_HL: Tensor,
    divisor: float,
    alpha: float,
    times: TimeBias | None = None,
    order_B: Tensor | None = None,
) -> Tensor:
    """Computes `hstu_attention` on one padded batch, in which the order of sequences is free."""
    length_B = offsets_B1.diff()
    longest = int(length_B.max())
    position_T = torch.arange(longest)
    filled_BT = position_T < length_B[:, None]
    # Padding reads row 0. The results of padding are masked below.
    index_BT = torch.where(filled_BT, offsets_B1[:-1, None] + position_T, 0)
    q, k, v = (x[index_BT].transpose(1, 2) for x in (q_NHD, k_NHD, v_NHD))

    distance_TT = (position_T[:, None] - position_T).clamp(min=0)
    scores = alpha * (q @ k.transpose(2, 3)) + bias_HL[:, distance_TT]
    if times is not None:
        time_BT = times.time_N[index_BT]
        bucket_BTT = time_bucket(time_BT[:, :, None] - time_BT[:, None, :])
        scores = scores + times.bias_HC[:, bucket_BTT].transpose(0, 1)

    seen = (position_T[:, None] >= position_T) & filled_BT[:, None, None, :]
    out = torch.where(seen, F.silu(scores), 0.0) / divisor @ v
    return out.transpose(1, 2)[filled_BT]


def kept_logits(
    query_Pd: Tensor,
    query_counts_S: list[int],
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes `in_group_loss` with all logits of a set at the same time.

    Negatives that all sets share, hidden negatives and shifts are not supported.
    """
    assert negatives.shared == 0
    assert hidden is None
    assert negatives.shifts_n is None
    losses = torch.zeros(len(positives))
    first_query = torch.cumsum(torch.tensor([0, *query_counts_S]), 0)
    start = 0
    for number, count in enumerate(negatives.counts_S):
        set_rows = slice(start, start + count)
        start += count
        in_set = positives.query_M >= first_query[number]
        in_set &= positives.query_M < first_query[number + 1]
        index = torch.nonzero(in_set)[:, 0]
        if not len(index):
            continue

        query = query_Pd[positives.query_M[index]]
        score = (query * positives.item_Xd[positives.source_M[index]]).sum(1)
        logits = query @ negatives.vectors_nd[set_rows].T
        # If the positive is also among the negatives, it is not a negative for this query.
        is_positive = negatives.ids_n[set_rows] == positives.id_M[index, None]
        logits = logits.masked_fill(is_positive, -torch.inf)
        nll = torch.logsumexp(torch.cat([score[:, None], logits], 1), 1) - score
        losses = losses.index_put((index,), nll)
    return (positives.weight_M * losses).sum(), losses.detach()


def every_adapter(
    z_Nd: Tensor, weight_Gdd: Tensor | None, bias_Gd: Tensor | None, row_R: Tensor, runs: Runs
) -> Tensor:
    """Computes `residual_adapters` from the products of all rows with all adapters.

    Every row must have an adapter, and adapters must be matrices.
    """
    assert weight_Gdd is not None
    adapters, rows = torch.tensor(runs, dtype=torch.int64).view(-1, 2).T
    adapter_R = torch.repeat_interleave(adapters, rows)
    x_Rd = z_Nd[row_R]
    every_RGd = torch.stack([x_Rd @ weight.T for weight in weight_Gdd], 1)
    y_Rd = x_Rd + F.silu(every_RGd[torch.arange(len(x_Rd)), adapter_R])
    if bias_Gd is None:
        return y_Rd
    return y_Rd + bias_Gd[adapter_R]


def _never(_: Tensor) -> bool:
    """Stands for a kernel that can compute nothing."""
    return False


# Name of the optimisation -> the patched functions, and their plain replacements.
_PLAIN: dict[str, dict[str, Callable[..., Any]]] = {
    "jagged attention": {
        "torchrec_priors.encoder.hstu.has_native_layer": _never,
        "torchrec_priors.encoder.hstu.hstu_attention": padded_attention,
    },
    "fused softmax": {"torchrec_priors.model.head_loss.in_group_loss": kept_logits},
    "grouped adapters": {"torchrec_priors.heads.adapter.residual_adapters": every_adapter},
    "fused layers": {"torchrec_priors.encoder.hstu.has_native_layer": _never},
}
NAMES = tuple(_PLAIN)


@contextmanager
def without(name: str) -> Iterator[None]:
    """Runs a block without one of the optimisations in `NAMES`."""
    # A function is patched in the module that uses it: an import there keeps a reference to it.
    with ExitStack() as patches:
        for target, plain in _PLAIN[name].items():
            patches.enter_context(patch(target, plain))
        yield
