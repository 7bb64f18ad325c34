"""One layer of HSTU on a CPU, forward and backward, with as few passes over memory as possible.

    H = f1(norm(x));  U, V, Q, K = split(SiLU(H))       (HSTU's Eq. 1)
    y = x + f2(dropout(norm(A(Q, K) V) * U))            (HSTU's Eq. 3)

SiLU(H) is never in memory: the kernels of attention and of the gate apply SiLU while they read H,
and its derivative while they write the gradient of H. For backward, a layer keeps 8 d numbers of a
token (x, norm(x), H, A V and the input of f2), and with dropout d more. PyTorch's own operations
keep 13 d.

Shapes: N tokens, d model width, H heads, D = d / H.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchrec_priors.ops.gated_norm_native import NativeNorm, has_native_norm
from torchrec_priors.ops.gpu_kernel import on_gpu
from torchrec_priors.ops.hstu_attention_native import attend, attend_backward, has_native


@dataclass(frozen=True)
class LayerParameters:
    """The parameters of a layer.

    Attributes:
        norm_in: weight and bias of the norm of the input.
        project_in_4dd: the weight of f1, which has no bias.
        bias_HL: the biases of distances.
        bias_HC: the biases of times; None for no time bias.
        norm_out: weight and bias of the norm of the attention's result.
        project_out: weight and bias of f2.
    """

    norm_in: tuple[Tensor, Tensor]
    project_in_4dd: Tensor
    bias_HL: Tensor
    bias_HC: Tensor | None
    norm_out: tuple[Tensor, Tensor]
    project_out: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerSequences:
    """The sequences of a batch, and what is the same for all of them.

    Attributes:
        offsets_B1: int64, the first token of each sequence; the last entry is N.
        time_N: the times of the tokens; None for no time bias.
        keep_Nd: the mask of the dropout, see `NativeNorm`; None for no dropout.
        divisor: the configured length L.
        eps: of both norms.
    """

    offsets_B1: Tensor
    time_N: Tensor | None
    keep_Nd: Tensor | None
    divisor: float
    eps: float


def has_native_layer(x_Nd: Tensor) -> bool:
    """Returns whether the kernels can compute a layer: in float32, on a CPU with a compiler."""
    if on_gpu(x_Nd) or torch.is_autocast_enabled("cpu"):
        return False
    return has_native_norm(x_Nd) and has_native(x_Nd)


def hstu_layer_native(
    x_Nd: Tensor, parameters: LayerParameters, sequences: LayerSequences
) -> Tensor:
    """Returns the result of a layer, [N, d].

    Raises:
        ValueError: a sequence is longer than there are biases.
    """
    arguments = (
        x_Nd.contiguous(),
        *parameters.norm_in,
        parameters.project_in_4dd,
        parameters.bias_HL,
        parameters.bias_HC,
        *parameters.norm_out,
        *parameters.project_out,
        sequences,
    )
    # Requests need no gradients. Autograd would take a part of the time of a short history.
    if not torch.is_grad_enabled():
        return _forward(*arguments)[0]
    out_Nd: Tensor = _Layer.apply(*arguments)
    return out_Nd


def _forward(
    x_Nd: Tensor,
    weight_in_d: Tensor,
    bias_in_d: Tensor,
    project_in_4dd: Tensor,
    bias_HL: Tensor,
    bias_HC: Tensor | None,
    weight_out_d: Tensor,
    bias_out_d: Tensor,
    project_out_dd: Tensor,
    added_d: Tensor,
    sequences: LayerSequences,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns the result of a layer, and the tensors that backward needs besides its inputs."""
    norm_in = NativeNorm(x_Nd, weight_in_d, bias_in_d, sequences.eps)
    normed_Nd, moments_in = norm_in.forward()
    hidden_N4d = normed_Nd @ project_in_4dd.T

    heads = len(bias_HL)
    inputs = _attention_inputs(hidden_N4d, heads, bias_HL, bias_HC, sequences)
    attended_NHD = attend(inputs, sequences.divisor, _alpha(x_Nd, heads), activates=True)
    attended_Nd = attended_NHD.flatten(1)

    norm_out = _gated(attended_Nd, weight_out_d, bias_out_d, hidden_N4d, sequences)
    gated_Nd, moments_out = norm_out.forward()
    out_Nd = x_Nd + added_d
    out_Nd.addmm_(gated_Nd, project_out_dd.T)
    return out_Nd, (moments_in, normed_Nd, hidden_N4d, attended_Nd, moments_out, gated_Nd)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        """Takes the arguments of `_forward`; what is added to the result is not needed later."""
        *inputs, _, sequences = arguments
        out_Nd, computed = _forward(*arguments)
        ctx.save_for_backward(*inputs, *computed)
        ctx.sequences = sequences
        return out_Nd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_Nd,
            weight_in_d,
            bias_in_d,
            project_in_4dd,
            bias_HL,
            bias_HC,
            weight_out_d,
            bias_out_d,
            project_out_dd,
            moments_in,
            normed_Nd,
            hidden_N4d,
            attended_Nd,
            moments_out,
            gated_Nd,
        ) = ctx.saved_tensors
        sequences = ctx.sequences
        grad_Nd = grads[0].contiguous()

        # HSTU's Eq. 3
        by_project_out = grad_Nd.T @ gated_Nd
        by_added_d = grad_Nd.sum(0)
        through_Nd = grad_Nd @ project_out_dd
        by_hidden_N4d = torch.empty_like(hidden_N4d)
        by_gate_Nd, *by_vqk = _parts(by_hidden_N4d)
        norm_out = _gated(attended_Nd, weight_out_d, bias_out_d, hidden_N4d, sequences)
        by_norm_out = norm_out.backward(through_Nd, moments_out, through_Nd, by_gate_Nd)

        # HSTU's Eq. 2
        heads = len(bias_HL)
        inputs = _attention_inputs(hidden_N4d, heads, bias_HL, bias_HC, sequences)
        by_v, by_q, by_k = (part.unflatten(1, (heads, -1)) for part in by_vqk)
        by_biases = attend_backward(
            inputs,
            sequences.divisor,
            _alpha(x_Nd, heads),
            through_Nd.unflatten(1, (heads, -1)),
            (by_q, by_k, by_v),
            activates=True,
        )

        # HSTU's Eq. 1
        by_project_in = by_hidden_N4d.T @ normed_Nd
        torch.mm(by_hidden_N4d, project_in_4dd, out=through_Nd)
        norm_in = NativeNorm(x_Nd, weight_in_d, bias_in_d, sequences.eps)
        by_norm_in = norm_in.backward(through_Nd, moments_in, through_Nd, more_Nd=grad_Nd)
        return (
            through_Nd,
            *by_norm_in,
            by_project_in,
            *by_biases,
            *by_norm_out,
            by_project_out,
            by_added_d,
            None,
        )


def _parts(hidden_N4d: Tensor) -> tuple[Tensor, ...]:
    """Returns the parts of H that belong to U, V, Q and K, [N, d] each."""
    return hidden_N4d.chunk(4, 1)


def _attention_inputs(
    hidden_N4d: Tensor,
    heads: int,
    bias_HL: Tensor,
    bias_HC: Tensor | None,
    sequences: LayerSequences,
) -> tuple[Tensor | None, ...]:
    """Returns the inputs of `attend`."""
    _, v, q, k = (part.unflatten(1, (heads, -1)) for part in _parts(hidden_N4d))
    return q, k, v, bias_HL, bias_HC, sequences.offsets_B1.contiguous(), sequences.time_N


def _gated(
    attended_Nd: Tensor,
    weight_d: Tensor,
    bias_d: Tensor,
    hidden_N4d: Tensor,
    sequences: LayerSequences,
) -> NativeNorm:
    """Returns the norm of the attention's result, with gate and dropout."""
    gate_Nd = _parts(hidden_N4d)[0]
    return NativeNorm(attended_Nd, weight_d, bias_d, sequences.eps, gate_Nd, sequences.keep_Nd)


def _alpha(x_Nd: Tensor, heads: int) -> float:
    """Returns 1 / sqrt(D)."""
    width: int = x_Nd.shape[1] // heads
    return float(width**-0.5)
