"""Jagged HSTU attention on a GPU: the kernels of `hstu_attention_triton.py` with their reference.

Shapes: N tokens in B sequences, H heads, D head width, L distances that have a bias, C buckets of
time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchrec_priors.ops.gpu_kernel import GpuKernel, has_kernels
from torchrec_priors.ops.hstu_attention_blocked import hstu_attention_blocked
from torchrec_priors.ops.time_bias import TimeBias

# The largest width of a head: blocks of wider heads do not fit into the shared memory of an H100.
_MOST_WIDTH = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}


def can_compute(q_NHD: Tensor) -> bool:
    """Returns whether the kernels can process heads of this width and type."""
    return q_NHD.shape[2] <= _MOST_WIDTH.get(q_NHD.dtype, 0)


def longest_first(offsets_B1: Tensor) -> Tensor | None:
    """Returns the sequences in the order in which a GPU starts them, int64 [B]; else None."""
    if not has_kernels(offsets_B1):
        return None
    return _longest_first(offsets_B1.diff())


def hstu_attention_gpu(
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
    """Computes `hstu_attention` without making the host wait for the device.

    Without `order_B`, a sequence of more than L tokens therefore fails an assertion on the device.
    With it, the caller has checked the lengths.
    """
    if order_B is None:
        lengths_B = offsets_B1.diff()
        torch._assert_async((lengths_B <= bias_HL.shape[1]).all())
        order_B = _longest_first(lengths_B)
    time_N, bias_HC = (None, None) if times is None else (times.time_N, times.bias_HC)
    out_NHD: Tensor = _Attention.apply(
        q_NHD, k_NHD, v_NHD, bias_HL, bias_HC, offsets_B1, order_B, time_N, divisor, alpha
    )
    return out_NHD


def _longest_first(lengths_B: Tensor) -> Tensor:
    return torch.argsort(lengths_B, descending=True, stable=True)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, divisor, alpha = arguments
        ctx.save_for_backward(*tensors)
        ctx.scales = (divisor, alpha)
        out_NHD: Tensor = ATTENTION_FORWARD(tuple(tensors), divisor, alpha)
        return out_NHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # `saved_tensors` is read only once: with checkpointing, each read recomputes the tensors.
        computed = ATTENTION_BACKWARD(tuple(ctx.saved_tensors), *ctx.scales, grads[0])
        return *computed, None, None, None, None, None


# What a kernel reads: q, k, v, the biases by distance and by bucket of time, the bounds of the
# sequences, their order, and the times.
Saved = tuple[Tensor | None, ...]


def _forward(saved: Saved, divisor: float, alpha: float) -> Tensor:
    """The reference of `attention_forward` in `hstu_attention_triton.py`."""
    q, k, v, bias_HL, bias_HC, offsets_B1, _, time_N = saved
    assert q is not None
    assert k is not None
    assert v is not None
    assert offsets_B1 is not None
    assert bias_HL is not None
    times = None
    if time_N is not None and bias_HC is not None:
        times = TimeBias(time_N, bias_HC)
    return hstu_attention_blocked(q, k, v, offsets_B1, bias_HL, divisor, alpha, times)


def _backward(
    saved: Saved, divisor: float, alpha: float, grad_NHD: Tensor
) -> tuple[Tensor | None, ...]:
    """The reference of `attention_backward` in `hstu_attention_triton.py`."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in saved[:5]]
    with torch.enable_grad():
        out_NHD = _forward((*leaves, *saved[5:]), divisor, alpha)
    wanted = [leaf for leaf in leaves if leaf is not None]
    grads = list(torch.autograd.grad(out_NHD, wanted, grad_NHD))
    return tuple(None if leaf is None else grads.pop(0) for leaf in leaves)


ATTENTION_FORWARD = GpuKernel("attention_forward", "hstu_attention_triton", 1, _forward)
ATTENTION_BACKWARD = GpuKernel("attention_backward", "hstu_attention_triton", 3, _backward)
