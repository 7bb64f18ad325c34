"""The end of an HSTU layer on a GPU: layer norm, gate and dropout in one kernel.

    y = dropout(norm(x) * u),    norm(x) = (x - mean) / sqrt(variance + eps) * weight + bias

The mask of the dropout is that of `hashed_mask` in `keyed_dropout.py`. Only the means and the
deviations of rows are kept for backward, where everything else is computed again.

Shapes: N rows, d columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import GpuKernel
from torchrec_priors.ops.keyed_dropout import DropoutKeys, hashed_dropout, hashed_salt

MOST_WIDTH = 4096  # a program has a whole row


def gated_norm(
    x_Nd: Tensor,
    u_Nd: Tensor,
    weight_d: Tensor,
    bias_d: Tensor,
    eps: float,
    keys: DropoutKeys | None,
    salt: int,
    p: float,
) -> Tensor:
    """Returns y, [N, d], in the type of u.

    Args:
        x_Nd: the rows to normalise.
        u_Nd: the gate.
        weight_d, bias_d, eps: the parameters of the norm.
        keys: the keys of the dropout; None outside training.
        salt: a number that is different for each dropout of the network.
        p: probability of zeroing a unit.
    """
    key_N = None
    if keys is not None and p:
        key_N = keys.of_tokens(x_Nd.device)
    out_Nd: Tensor = _GatedNorm.apply(
        x_Nd, u_Nd, weight_d, bias_d, key_N, eps, hashed_salt(salt), p
    )
    return out_Nd


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_Nd: Tensor,
        u_Nd: Tensor,
        weight_d: Tensor,
        bias_d: Tensor,
        key_N: Tensor | None,
        eps: float,
        salt: int,
        p: float,
    ) -> Tensor:
        out_Nd, moments_2N = NORM_FORWARD(x_Nd, u_Nd, weight_d, bias_d, key_N, eps, salt, p)
        ctx.save_for_backward(x_Nd, u_Nd, weight_d, bias_d, key_N, moments_2N)
        ctx.dropout = (salt, p)
        return out_Nd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        computed = NORM_BACKWARD(*ctx.saved_tensors, *ctx.dropout, grads[0])
        return *computed, None, None, None, None


def _forward(
    x_Nd: Tensor,
    u_Nd: Tensor,
    weight_d: Tensor,
    bias_d: Tensor,
    key_N: Tensor | None,
    eps: float,
    salt: int,
    p: float,
) -> tuple[Tensor, Tensor]:
    """The reference of `norm_forward` in `gated_norm_triton.py`.

    Returns:
        y, and the means and reciprocal deviations of the rows, float32 [2, N].
    """
    x = x_Nd.float()
    mean_N = x.mean(1)
    deviation_N = torch.rsqrt(x.var(1, correction=0) + eps)
    norm_Nd = F.layer_norm(x, x.shape[1:], weight_d, bias_d, eps)
    y_Nd = norm_Nd * u_Nd
    if key_N is not None:
        y_Nd = hashed_dropout(y_Nd, key_N, salt, p)
    return y_Nd.to(u_Nd.dtype), torch.stack([mean_N, deviation_N])


def _backward(
    x_Nd: Tensor,
    u_Nd: Tensor,
    weight_d: Tensor,
    bias_d: Tensor,
    key_N: Tensor | None,
    moments_2N: Tensor,
    salt: int,
    p: float,
    grad_Nd: Tensor,
) -> tuple[Tensor, ...]:
    """The reference of `norm_backward` in `gated_norm_triton.py`.

    Returns:
        The gradients of x, u, the weight and the bias.
    """
    grad = grad_Nd.float()
    if key_N is not None:
        grad = hashed_dropout(grad, key_N, salt, p)
    mean_N1, deviation_N1 = moments_2N[:, :, None]
    unit_Nd = (x_Nd.float() - mean_N1) * deviation_N1

    by_norm_Nd = grad * u_Nd
    by_unit_Nd = by_norm_Nd * weight_d
    along_N1 = (by_unit_Nd * unit_Nd).mean(1, keepdim=True)
    grad_x = (by_unit_Nd - by_unit_Nd.mean(1, keepdim=True) - unit_Nd * along_N1) * deviation_N1
    grad_u = grad * (unit_Nd * weight_d + bias_d)
    return (
        grad_x.to(x_Nd.dtype),
        grad_u.to(u_Nd.dtype),
        (by_norm_Nd * unit_Nd).sum(0).to(weight_d.dtype),
        by_norm_Nd.sum(0).to(bias_d.dtype),
    )


NORM_FORWARD = GpuKernel("norm_forward", "gated_norm_triton", 1, _forward)
NORM_BACKWARD = GpuKernel("norm_backward", "gated_norm_triton", 2, _backward)
