"""Jagged causal SiLU attention of HSTU (Zhai et al., 2024, Eq. 2-3).

    out_i = (1 / divisor) * sum_{j <= i} SiLU(alpha * q_i . k_j + bias[i - j] + time bias) v_j    within each sequence

where the time bias, an option, is a number per bucket of the logarithm of t_i - t_j.

Shapes: N tokens in B sequences, H heads, D head width, L the longest distance the bias knows, C buckets of time.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Sequences are padded to the longest of their bucket; a bucket ends where padding would waste more than this share,
# or where its score matrix would hold more numbers than this.
_LEAST_FILL = 0.8
_MOST_SCORES = 1 << 22

TIME_BUCKETS = 40  # the last begins after 2^39 - 1 seconds: no log is longer


@dataclass(frozen=True)
class TimeBias:
    """Bias of time.

    Attributes:
        time_N: int64 milliseconds of every token, not descending within a sequence.
        bias_HC: one number per head and bucket of `time_bucket`.
    """

    time_N: Tensor
    bias_HC: Tensor


def time_bucket(milliseconds: Tensor) -> Tensor:
    """floor(log2(1 + seconds)) of differences in time, int64; negative ones count as 0.

    >>> time_bucket(torch.tensor([0, 999, 1000, 2999, 3000, 7000])).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    seconds = torch.div(milliseconds.clamp(min=0), 1000, rounding_mode="floor")
    exponent = torch.frexp((seconds + 1).double())[1] - 1
    return exponent.long().clamp(max=TIME_BUCKETS - 1)


def hstu_attention_reference(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    offsets_B1: Tensor,
    bias_HL: Tensor,
    divisor: float,
    alpha: float,
    times: TimeBias | None = None,
) -> Tensor:
    """The definition, sequence by sequence. Same arguments and result as `hstu_attention`."""
    outputs = []
    bounds = offsets_B1.tolist()
    for start, end in itertools.pairwise(bounds):
        length = end - start
        position = torch.arange(length, device=q_NHD.device)
        distance = position[:, None] - position[None, :]
        causal = distance >= 0
        scores = alpha * torch.einsum("ihd,jhd->hij", q_NHD[start:end], k_NHD[start:end])
        scores = scores + bias_HL[:, distance.clamp(min=0)]
        if times is not None:
            time = times.time_N[start:end]
            scores = scores + times.bias_HC[:, time_bucket(time[:, None] - time[None, :])]
        weights = torch.where(causal, F.silu(scores), 0.0) / divisor
        outputs.append(torch.einsum("hij,jhd->ihd", weights, v_NHD[start:end]))
    return torch.cat(outputs) if outputs else v_NHD


def hstu_attention(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    offsets_B1: Tensor,
    bias_HL: Tensor,
    divisor: float,
    alpha: float,
    times: TimeBias | None = None,
) -> Tensor:
    """Causal SiLU attention within each sequence of a jagged batch.

    Args:
        q_NHD, k_NHD, v_NHD: queries, keys and values of all tokens, sequence after sequence.
        offsets_B1: int64 [B + 1], where each sequence begins; the last entry is N.
        bias_HL: one number per head and distance; L must reach the longest sequence.
        divisor: the configured context length, so that a result does not depend on the batch's longest sequence.
        alpha: factor on q.k before the bias.
        times: bias of time, if any.

    Returns:
        [N, H, D].

    Raises:
        ValueError: a sequence is longer than the bias is wide.
    """
    lengths = (offsets_B1[1:] - offsets_B1[:-1]).tolist()
    if max(lengths, default=0) > bias_HL.shape[1]:
        raise ValueError(f"a sequence of {max(lengths)} tokens is longer than the configured {bias_HL.shape[1]}")
    padded_q, padded_k, padded_v = (F.pad(x_NHD, (0, 0, 0, 0, 0, 1)) for x_NHD in (q_NHD, k_NHD, v_NHD))
    outputs, rows = [], []
    for bucket in _buckets(lengths, heads=q_NHD.shape[1]):
        index_BT, filled_BT = _padding_index(bucket, lengths, offsets_B1, empty_row=len(q_NHD))
        flat = index_BT.flatten()
        q, k, v = (x.index_select(0, flat).unflatten(0, index_BT.shape) for x in (padded_q, padded_k, padded_v))
        kept = filled_BT.flatten().nonzero().squeeze(1)
        out_BTHD = _padded(q, k, v, _biases(bias_HL, times, index_BT), divisor, alpha)
        outputs.append(out_BTHD.flatten(0, 1).index_select(0, kept))
        rows.append(flat[kept])
    if not outputs:
        unused = bias_HL.sum() + (0.0 if times is None else times.bias_HC.sum())
        return v_NHD + 0.0 * (q_NHD + k_NHD) + 0.0 * unused
    return torch.cat(outputs).index_select(0, torch.argsort(torch.cat(rows)))


def _biases(bias_HL: Tensor, times: TimeBias | None, index_BT: Tensor) -> Tensor:
    """[B or 1, H, T, T] of a bucket of sequences; what stands above the diagonal is left out by the caller."""
    position = torch.arange(index_BT.shape[1], device=index_BT.device)
    distance = (position[:, None] - position[None, :]).clamp(min=0)
    bias = bias_HL.index_select(1, distance.flatten()).unflatten(1, distance.shape)[None]
    if times is None:
        return bias
    time_BT = F.pad(times.time_N, (0, 1))[index_BT]
    bucket_BTT = time_bucket(time_BT[:, :, None] - time_BT[:, None, :])
    of_time = times.bias_HC.index_select(1, bucket_BTT.flatten()).unflatten(1, bucket_BTT.shape)
    return bias + of_time.transpose(0, 1)


def _padded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, divisor: float, alpha: float) -> Tensor:
    """q, k, v: [B, T, H, D], padded at the end; rows of padding give rubbish that the caller leaves out."""
    position = torch.arange(q.shape[1], device=q.device)
    causal = position[:, None] >= position[None, :]
    scores = torch.matmul(q.permute(0, 2, 1, 3) * alpha, k.permute(0, 2, 3, 1)) + bias
    weights = F.silu(scores) * (causal / divisor)
    return torch.matmul(weights, v.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)


def _buckets(lengths: list[int], heads: int) -> list[list[int]]:
    """Sequences of similar length together; empty ones nowhere."""
    order = sorted((i for i in range(len(lengths)) if lengths[i]), key=lambda i: -lengths[i])
    buckets: list[list[int]] = []
    for sequence in order:
        longest = lengths[buckets[-1][0]] if buckets else 0
        fits = buckets and (len(buckets[-1]) + 1) * heads * longest * longest <= _MOST_SCORES
        if fits and lengths[sequence] >= _LEAST_FILL * longest:
            buckets[-1].append(sequence)
        else:
            buckets.append([sequence])
    return buckets


def _padding_index(bucket: list[int], lengths: list[int], offsets_B1: Tensor, empty_row: int) -> tuple[Tensor, Tensor]:
    chosen = torch.tensor(bucket, device=offsets_B1.device)
    length_B = torch.tensor([lengths[i] for i in bucket], device=offsets_B1.device)
    position_T = torch.arange(lengths[bucket[0]], device=offsets_B1.device)
    filled_BT = position_T < length_B[:, None]
    index_BT = torch.where(filled_BT, offsets_B1[chosen][:, None] + position_T, empty_row)
    return index_BT, filled_BT
