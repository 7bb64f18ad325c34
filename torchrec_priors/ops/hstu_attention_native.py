"""Jagged HSTU attention by a C++ kernel, in which one thread computes one head of one sequence.

Results and gradients are the same, bit for bit, whatever the number of threads and the rest of the
batch: sums over sequences are computed at the end, in the order of the sequences.

Shapes: N tokens in B sequences, H heads, D head width, L distances that have a bias, C buckets of
time.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchrec_priors.ops.native import ENOUGH, available, load_native, threads_for
from torchrec_priors.ops.time_bias import TIME_BUCKETS, TimeBias

_SOURCE = Path(__file__).with_suffix(".cpp")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Queries, keys, values, biases of distances, biases of times, offsets, and times.
Saved = tuple[Tensor | None, ...]


def has_native(q_NHD: Tensor) -> bool:
    """Returns whether the kernel can process these queries on this machine.

    They must be on a CPU, with numbers of at most 32 bits, and the kernel must be available (see
    `load_native`).
    """
    return (
        q_NHD.device.type == "cpu" and q_NHD.dtype in _DTYPES and load_native(_SOURCE) is not None
    )


def hstu_attention_native(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    offsets_B1: Tensor,
    bias_HL: Tensor,
    divisor: float,
    alpha: float,
    times: TimeBias | None = None,
) -> Tensor:
    """See `hstu_attention`. Computes in float32."""
    time_N, bias_HC = (None, None) if times is None else (times.time_N, times.bias_HC)
    saved = (q_NHD, k_NHD, v_NHD, bias_HL, bias_HC, offsets_B1.contiguous(), time_N)
    # Requests need no gradients. Without autograd, the call of a short history takes half the time.
    if not torch.is_grad_enabled():
        return attend(saved, divisor, alpha)
    out_NHD: Tensor = _Attention.apply(*saved, divisor, alpha)
    return out_NHD


class _Heads(ctypes.Structure):
    """A tensor [N, H, D]: its address, and the strides of tokens and heads."""

    _fields_ = (("data", ctypes.c_void_p), ("token", ctypes.c_int64), ("head", ctypes.c_int64))

    @classmethod
    def of(cls, x_NHD: Tensor) -> "_Heads":
        assert x_NHD.dtype == torch.float32
        assert x_NHD.stride(2) == 1 or x_NHD.shape[2] == 1 or not x_NHD.numel()
        return cls(x_NHD.data_ptr(), x_NHD.stride(0), x_NHD.stride(1))


class _Gradients(ctypes.Structure):
    """Where the kernel writes gradients; the C++ code has the same fields."""

    _fields_ = (
        ("q", _Heads),
        ("k", _Heads),
        ("v", _Heads),
        ("bias", ctypes.c_void_p),
        ("of_time", ctypes.c_void_p),
    )


class _Batch(ctypes.Structure):
    """A batch in the form that the kernel takes; the C++ code has the same fields."""

    _fields_ = (
        ("offsets", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("longest", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("bias_row", ctypes.c_int64),
        ("times", ctypes.c_void_p),
        ("time_bias", ctypes.c_void_p),
        ("alpha", ctypes.c_float),
        ("divisor", ctypes.c_float),
        ("threads", ctypes.c_int64),
        ("activates", ctypes.c_int64),
    )


class _Inputs:
    """The inputs of forward and backward in the form that the kernel takes.

    It holds the tensors, so that the kernel's pointers to them stay valid.
    """

    def __init__(self, saved: Saved, divisor: float, alpha: float, activates: bool) -> None:
        q, k, v, bias_HL, bias_HC, offsets_B1, time_N = saved
        assert bias_HL is not None
        assert offsets_B1 is not None
        self.qkv = [_single(x) for x in (q, k, v) if x is not None]
        self.bias_HL = _single(bias_HL)
        self.bias_HC = None if bias_HC is None else _single(bias_HC).contiguous()
        self.offsets_B1 = offsets_B1
        self.time_N = None if time_N is None else time_N.contiguous()

        # Threads take the longest sequences first, so that none starts a long one at the end.
        self.lengths_B = offsets_B1.diff()
        if len(self.lengths_B) == 1:
            self.order_B = torch.zeros(1, dtype=torch.int64)
        else:
            self.order_B = torch.argsort(self.lengths_B, descending=True, stable=True)

        longest = int(self.lengths_B.max()) if len(self.lengths_B) else 0
        _, heads, width = self.qkv[0].shape
        multiplications = len(self.lengths_B) * heads * longest**2 * width
        self.batch = _Batch(
            self.offsets_B1.data_ptr(),
            self.order_B.data_ptr(),
            len(self.lengths_B),
            heads,
            width,
            longest,
            self.bias_HL.data_ptr(),
            self.bias_HL.stride(0),
            None if self.time_N is None else self.time_N.data_ptr(),
            None if self.bias_HC is None else self.bias_HC.data_ptr(),
            alpha,
            divisor,
            threads_for(multiplications, ENOUGH),
            activates,
        )

    def heads(self) -> list[Any]:
        """Returns pointers to queries, keys and values."""
        return [ctypes.byref(_Heads.of(x)) for x in self.qkv]


def _single(x: Tensor) -> Tensor:
    """Returns the tensor in float32, with contiguous numbers of a head."""
    x = x.detach().float()
    return x if x.stride(-1) == 1 else x.contiguous()


def attend(saved: Saved, divisor: float, alpha: float, activates: bool = False) -> Tensor:
    """Computes the attention of inputs.

    Args:
        saved: see `Saved`.
        divisor, alpha: as for `hstu_attention`.
        activates: whether queries, keys and values are SiLU of the given tensors.
    """
    inputs = _Inputs(saved, divisor, alpha, activates)
    distances = inputs.bias_HL.shape[1]
    if inputs.batch.longest > distances:
        raise ValueError(
            f"a sequence of {inputs.batch.longest} tokens is longer than the configured {distances}"
        )

    v_NHD = saved[2]
    assert v_NHD is not None
    out_NHD = torch.empty(v_NHD.shape)
    _call(
        "hstu_forward",
        ctypes.byref(inputs.batch),
        *inputs.heads(),
        ctypes.byref(_Heads.of(out_NHD)),
    )
    return out_NHD.to(v_NHD.dtype)


def attend_backward(
    saved: Saved,
    divisor: float,
    alpha: float,
    grad_NHD: Tensor,
    to: Sequence[Tensor],
    activates: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Computes the gradients of `attend`.

    Args:
        saved, divisor, alpha, activates: as for `attend`.
        grad_NHD: the gradient of the result.
        to: float32 tensors, to which the gradients of queries, keys and values are written.

    Returns:
        The gradients of the biases of distances and of times.
    """
    q_NHD, _, _, bias_HL, bias_HC, *_ = saved
    assert q_NHD is not None
    assert bias_HL is not None
    inputs = _Inputs(saved, divisor, alpha, activates)

    grad_bias_HN = torch.empty(q_NHD.shape[1], len(q_NHD))
    grad_time_BHC = None
    if bias_HC is not None:
        grad_time_BHC = torch.zeros(
            inputs.batch.sequences, len(bias_HC), TIME_BUCKETS, dtype=torch.float64
        )
    out = _Gradients(
        *(_Heads.of(x) for x in to),
        grad_bias_HN.data_ptr(),
        None if grad_time_BHC is None else grad_time_BHC.data_ptr(),
    )

    grad_NHD = _single(grad_NHD)
    grad = ctypes.byref(_Heads.of(grad_NHD))
    _call("hstu_backward", ctypes.byref(inputs.batch), *inputs.heads(), grad, ctypes.byref(out))

    grad_HL = _by_distance(grad_bias_HN, inputs, bias_HL)
    if grad_time_BHC is None or bias_HC is None:
        return grad_HL, None
    return grad_HL, grad_time_BHC.sum(0).to(bias_HC.dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_NHD: Tensor,
        k_NHD: Tensor,
        v_NHD: Tensor,
        bias_HL: Tensor,
        bias_HC: Tensor | None,
        offsets_B1: Tensor,
        time_N: Tensor | None,
        divisor: float,
        alpha: float,
    ) -> Tensor:
        saved = (q_NHD, k_NHD, v_NHD, bias_HL, bias_HC, offsets_B1, time_N)
        ctx.save_for_backward(*saved)
        ctx.divisor = divisor
        ctx.alpha = alpha

        return attend(saved, divisor, alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # `saved_tensors` is read only once: with checkpointing, each read recomputes the tensors.
        saved = ctx.saved_tensors
        q_NHD = saved[0]
        to = [torch.empty(q_NHD.shape) for _ in range(3)]
        by_biases = attend_backward(saved, ctx.divisor, ctx.alpha, grads[0], to)
        return (*(x.to(q_NHD.dtype) for x in to), *by_biases, *(None,) * 4)


def _by_distance(grad_bias_HN: Tensor, inputs: _Inputs, bias_HL: Tensor) -> Tensor:
    """Returns the gradients of biases, summed over sequences.

    Args:
        grad_bias_HN: token i of a sequence has the sequence's gradient for distance i.
        inputs: the inputs of the pass.
        bias_HL: the biases.
    """
    starts_N = torch.repeat_interleave(inputs.offsets_B1[:-1], inputs.lengths_B)
    distance_N = torch.arange(grad_bias_HN.shape[1]) - starts_N
    return torch.zeros_like(bias_HL).index_add_(1, distance_N, grad_bias_HN.to(bias_HL.dtype))


def _call(name: str, *arguments: Any) -> None:
    """Calls a function of the C++ library. Raises MemoryError if it lacks memory."""
    if getattr(available(_SOURCE), name)(*arguments):
        raise MemoryError("attention: no memory for the scratch of one sequence")
