"""Jagged causal SiLU attention of HSTU (Zhai et al., 2024, Eq. 2-3).

    out_i = (1 / divisor) * sum_{j <= i} SiLU(alpha * q_i . k_j + bias[i - j]) v_j       within each sequence

Shapes: N tokens in B sequences, H heads, D head width, L the longest distance the bias knows.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

# Sequences are padded to the longest of their bucket; a bucket ends where padding would waste more than this share,
# or where its score matrix would hold more numbers than this.
_LEAST_FILL = 0.8
_MOST_SCORES = 1 << 22


def hstu_attention_reference(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    offsets_B1: Tensor,
    bias_HL: Tensor,
    divisor: float,
    alpha: float,
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
) -> Tensor:
    """Causal SiLU attention within each sequence of a jagged batch.

    Args:
        q_NHD, k_NHD, v_NHD: queries, keys and values of all tokens, sequence after sequence.
        offsets_B1: int64 [B + 1], where each sequence begins; the last entry is N.
        bias_HL: one number per head and distance; L must reach the longest sequence.
        divisor: the configured context length, so that a result does not depend on the batch's longest sequence.
        alpha: factor on q.k before the bias.

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
        out_BTHD = _padded(q, k, v, bias_HL, divisor, alpha)
        outputs.append(out_BTHD.flatten(0, 1).index_select(0, kept))
        rows.append(flat[kept])
    if not outputs:
        return v_NHD + 0.0 * (q_NHD + k_NHD) + 0.0 * bias_HL.sum()
    return torch.cat(outputs).index_select(0, torch.argsort(torch.cat(rows)))


def _padded(q: Tensor, k: Tensor, v: Tensor, bias_HL: Tensor, divisor: float, alpha: float) -> Tensor:
    """q, k, v: [B, T, H, D], padded at the end; rows of padding give rubbish that the caller leaves out."""
    length = q.shape[1]
    position = torch.arange(length, device=q.device)
    distance = position[:, None] - position[None, :]
    bias_HTT = bias_HL.index_select(1, distance.clamp(min=0).flatten()).unflatten(1, distance.shape)
    scores = torch.matmul(q.permute(0, 2, 1, 3) * alpha, k.permute(0, 2, 3, 1)) + bias_HTT
    weights = F.silu(scores) * ((distance >= 0) / divisor)
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
