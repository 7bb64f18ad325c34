"""Layer norm, gate and dropout of an HSTU layer on a CPU, in one pass over memory each.

    y = norm(x) * SiLU(u) * keep,    norm(x) = (x - mean) / sqrt(variance + eps) * weight + bias

The gate u and the mask `keep` of the dropout are optional. Results have the same bits on any number
of threads.

Shapes: N rows, d columns.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torchrec_priors.ops.native import available, load_native, threads_for

_SOURCE = Path(__file__).with_suffix(".cpp")
_LANES = 16  # the width must be a multiple of the widest registers, in floats
# The least number of elements for which another thread is worth waking.
_ENOUGH = 1 << 16


def has_native_norm(x_Nd: Tensor) -> bool:
    """Returns whether the kernel can process rows of this type and width on this machine."""
    return (
        x_Nd.device.type == "cpu"
        and x_Nd.dtype == torch.float32
        and x_Nd.shape[1] % _LANES == 0
        and load_native(_SOURCE) is not None
    )


class _Matrix(ctypes.Structure):
    """A matrix [N, d]: its address, and the distance of its rows; the C++ code has the same."""

    _fields_ = (("data", ctypes.c_void_p), ("step", ctypes.c_int64))

    @classmethod
    def of(cls, x_Nd: Tensor | None) -> "_Matrix":
        if x_Nd is None:
            return cls(None, 0)
        assert x_Nd.dtype == torch.float32
        assert x_Nd.stride(1) == 1
        return cls(x_Nd.data_ptr(), x_Nd.stride(0))


class _Norm(ctypes.Structure):
    """The inputs of both passes; the C++ code has the same fields."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("threads", ctypes.c_int64),
        ("x", _Matrix),
        ("gate", _Matrix),
        ("keep", _Matrix),
        ("moments", ctypes.c_void_p),
    )


class _Gradients(ctypes.Structure):
    """The gradients of both sides; the C++ code has the same fields."""

    _fields_ = (
        ("y", _Matrix),
        ("more", _Matrix),
        ("x", _Matrix),
        ("gate", _Matrix),
        ("weight_and_bias", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class NativeNorm:
    """A layer norm of some rows, and what they are multiplied with.

    The numbers of a row must be contiguous.

    Attributes:
        x_Nd: the rows to normalise.
        weight_d, bias_d, eps: the parameters of the norm.
        gate_Nd: u; None for no gate.
        keep_Nd: the mask of the dropout, with kept units divided by 1 - p; None for no dropout.
    """

    x_Nd: Tensor
    weight_d: Tensor
    bias_d: Tensor
    eps: float
    gate_Nd: Tensor | None = None
    keep_Nd: Tensor | None = None

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns y, [N, d], and the numbers that `backward` needs: [N, 2]."""
        y_Nd = torch.empty(self.x_Nd.shape)
        moments_N2 = torch.empty(len(self.x_Nd), 2)
        inputs = self._inputs(moments_N2)
        available(_SOURCE).norm_forward(ctypes.byref(inputs), ctypes.byref(_Matrix.of(y_Nd)))
        return y_Nd, moments_N2

    def backward(
        self,
        grad_y_Nd: Tensor,
        moments_N2: Tensor,
        grad_x_Nd: Tensor,
        grad_gate_Nd: Tensor | None = None,
        more_Nd: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Writes the gradients of x and u, and returns those of weight and bias, [d].

        Args:
            grad_y_Nd: the gradient of y.
            moments_N2: what `forward` returned.
            grad_x_Nd: where the gradient of x is written; it may be `grad_y_Nd`.
            grad_gate_Nd: where the gradient of u is written.
            more_Nd: a gradient that is added to that of x, of a residual connection.
        """
        weight_and_bias_2d = torch.empty(2, self.x_Nd.shape[1])
        grad = _Gradients(
            *(_Matrix.of(part) for part in (grad_y_Nd, more_Nd, grad_x_Nd, grad_gate_Nd)),
            weight_and_bias_2d.data_ptr(),
        )
        inputs = self._inputs(moments_N2)
        if available(_SOURCE).norm_backward(ctypes.byref(inputs), ctypes.byref(grad)):
            raise MemoryError("layer norm: no memory for the sums of its gradients")
        by_weight_d, by_bias_d = weight_and_bias_2d
        return by_weight_d, by_bias_d

    def _inputs(self, moments_N2: Tensor) -> _Norm:
        rows, width = self.x_Nd.shape
        assert self.weight_d.is_contiguous()
        assert self.bias_d.is_contiguous()
        return _Norm(
            rows,
            width,
            self.weight_d.data_ptr(),
            self.bias_d.data_ptr(),
            self.eps,
            threads_for(rows * width, _ENOUGH),
            *(_Matrix.of(part) for part in (self.x_Nd, self.gate_Nd, self.keep_Nd)),
            moments_N2.data_ptr(),
        )
