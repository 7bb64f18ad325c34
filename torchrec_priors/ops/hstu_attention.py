"""Jagged causal SiLU attention of HSTU (Zhai et al., 2024, Eq. 2) within each sequence.

    out_i = (1 / divisor) * sum_{j <= i} SiLU(alpha * q_i . k_j + bias[i - j] + time bias) v_j

The equation as printed has neither alpha nor the divisor. The time bias is optional. It is one
number per bucket of the logarithm of t_i - t_j.

`hstu_attention` uses the first of these functions that can process its tensors on this machine:

    `hstu_attention_gpu`        fused kernels on a GPU
    `hstu_attention_native`     a C++ kernel on a CPU, compiled when it is first used
    `hstu_attention_blocked`    PyTorch's operations, on any device

`hstu_attention_reference` is the definition; tests compare all three with it.

Shapes: N tokens in B sequences, H heads, D head width, L distances that have a bias (0 to L - 1),
C buckets of time.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import has_kernels
from torchrec_priors.ops.hstu_attention_blocked import hstu_attention_blocked
from torchrec_priors.ops.hstu_attention_gpu import can_compute, hstu_attention_gpu
from torchrec_priors.ops.hstu_attention_native import has_native, hstu_attention_native
from torchrec_priors.ops.time_bias import TimeBias, time_bucket


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
    order_B: Tensor | None = None,
) -> Tensor:
    """Causal SiLU attention within each sequence of a jagged batch.

    Args:
        q_NHD, k_NHD, v_NHD: queries, keys and values of all tokens, sequence after sequence.
        offsets_B1: int64 [B + 1], first token of each sequence; the last entry is N.
        bias_HL: one number per head and distance; no sequence may have more than L tokens.
        divisor: the configured context length, so a result does not depend on the batch's longest
            sequence.
        alpha: factor on q.k before the bias.
        times: times and biases; None for no time bias.
        order_B: the order in which a GPU starts the sequences (`longest_first`), from a caller that
            has checked their lengths; None to compute it here.

    Returns:
        [N, H, D].

    Raises:
        ValueError: a sequence has more than L tokens.
    """
    arguments = (q_NHD, k_NHD, v_NHD, offsets_B1, bias_HL, divisor, alpha, times)
    if has_kernels(q_NHD) and can_compute(q_NHD):
        return hstu_attention_gpu(*arguments, order_B)
    if has_native(q_NHD):
        return hstu_attention_native(*arguments)
    return hstu_attention_blocked(*arguments)
