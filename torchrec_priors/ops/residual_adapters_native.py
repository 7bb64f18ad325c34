"""The adapters of many runs of rows on a CPU: one call of a C++ kernel for all runs.

Threads take tasks of up to 512 rows. Results and gradients are the same, bit for bit, whatever the
number of threads.

Shapes: N vectors, R rows, A runs, G adapters, d width.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import on_gpu
from torchrec_priors.ops.native import ENOUGH, available, load_native, threads_for
from torchrec_priors.ops.products import chosen_pieces

_SOURCE = Path(__file__).with_suffix(".cpp")
# The columns of a panel: the width must be a multiple of the widest one.
_COLUMNS = 32
# With fewer rows for each adapter, putting its matrix in the order of the kernel would not pay.
_ROWS = 32


def has_native_adapters(z_Nd: Tensor, runs: list[tuple[int, int]]) -> bool:
    """Returns whether the kernel can compute these runs on this machine, and whether it pays."""
    if on_gpu(z_Nd) or z_Nd.dtype != torch.float32 or z_Nd.shape[1] % _COLUMNS:
        return False
    adapters = {adapter for adapter, rows in runs if rows}
    rows_in_all = sum(rows for _, rows in runs)
    return rows_in_all >= _ROWS * len(adapters) and load_native(_SOURCE) is not None


@dataclass(frozen=True)
class NativeAdapters:
    """The inputs of both passes; see `residual_adapters`.

    Attributes:
        z_Nd: input vectors.
        weight_Gdd: the matrices of the adapters.
        bias_Gd: their biases; None leaves them out.
        row_R: index of each row's input vector.
        runs: (adapter, number of rows), one run after another.
        pieces: how both passes multiply; see `products`.
    """

    z_Nd: Tensor
    weight_Gdd: Tensor
    bias_Gd: Tensor | None
    row_R: Tensor
    runs: list[tuple[int, int]]
    pieces: int = field(default_factory=lambda: chosen_pieces(available(_SOURCE)))

    def forward(self) -> Tensor:
        """Returns y, [R, d]."""
        y_Rd = torch.empty(len(self.row_R), self.z_Nd.shape[1])
        self._call("adapters_forward", ctypes.c_void_p(y_Rd.data_ptr()))
        return y_Rd

    def backward(self, grad_Rd: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the gradients of z, the matrices and the biases."""
        grad_Rd = grad_Rd.contiguous()
        through_Rd = torch.empty_like(grad_Rd)
        grad_z_Nd = torch.zeros_like(self.z_Nd, memory_format=torch.contiguous_format)
        grad_weight = torch.zeros(self.weight_Gdd.shape)
        grad_bias = None if self.bias_Gd is None else torch.zeros(self.bias_Gd.shape)
        tensors = (grad_Rd, through_Rd, grad_z_Nd, grad_weight, grad_bias)
        addresses = _Gradients(*(None if x is None else x.data_ptr() for x in tensors))
        self._call("adapters_backward", ctypes.byref(addresses))
        return grad_z_Nd, grad_weight, grad_bias

    def _call(self, name: str, out: object) -> None:
        """Calls a function of the C++ library."""
        adapter_A, rows_A = torch.tensor(self.runs, dtype=torch.int64).view(-1, 2).T.contiguous()
        width = self.z_Nd.shape[1]
        multiplications = len(self.row_R) * width**2
        tensors = [self.z_Nd, self.row_R, adapter_A, rows_A, self.weight_Gdd]
        tensors = [tensor.contiguous() for tensor in tensors]
        bias_Gd = None if self.bias_Gd is None else self.bias_Gd.contiguous()

        given = _Input(
            *(tensor.data_ptr() for tensor in tensors),
            None if bias_Gd is None else bias_Gd.data_ptr(),
            len(self.z_Nd),
            width,
            len(self.row_R),
            len(self.runs),
            threads_for(multiplications, ENOUGH),
            self.pieces,
        )
        if getattr(available(_SOURCE), name)(ctypes.byref(given), out):
            raise MemoryError("adapters: no memory for the gradients of a task")


_COUNTS = ("tokens", "width", "total_rows", "runs", "threads", "pieces")


class _Input(ctypes.Structure):
    """The inputs of the kernel; the C++ code has the same fields."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("z", "row", "adapter", "rows", "weight", "bias")),
        *((name, ctypes.c_int64) for name in _COUNTS),
    )


class _Gradients(ctypes.Structure):
    """The gradient of y, and where the kernel writes the others; the C++ code has the same."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("y", "through", "z", "weight", "bias"))
