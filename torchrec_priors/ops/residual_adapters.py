"""The step of Eq. 2, 4 and 5 for the rows of many adapters, as a grouped GEMM (b is e of Eq. 5).

    y_r = x_r + SiLU(W[g(r)] x_r) + b[g(r)],    x_r = z[row_r]

Rows come in runs; all rows of a run have the same adapter. Only z is kept for backward: products
are computed again. On a CPU, a block of rows is computed, forward and backward, while it is in
cache: by a C++ kernel for all runs, or, without a compiler, run by run (`residual_adapters`). On a
GPU, one kernel computes all runs (`grouped_adapters`).

Shapes: N vectors, R rows, A runs, G adapters, d width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import GpuKernel, kind_of_device
from torchrec_priors.ops.residual_adapters_native import NativeAdapters, has_native_adapters

_ROWS = {"cpu": 1 << 10, "cuda": 1 << 20}  # in a block

# (adapter, number of rows), one run after another; adapter -1 leaves rows unchanged.
Runs = list[tuple[int, int]]


@dataclass(frozen=True)
class DeviceRuns:
    """Runs that stay on the device: the host does not know how many rows they have.

    An adapter may have several runs.

    Attributes:
        run_R: int64, the run of each row, ascending.
        adapter_A: int64, the adapter of each run; -1 leaves its rows unchanged.
        bounds_A1: int64, the first row of each run; the last entry is R.
        runs_by_adapter: int64, the runs of the first adapter, then of the second one, and so on.
        first_run_G1: int64, index in `runs_by_adapter` at which each adapter's runs begin; the last
            entry is the number of runs that have an adapter.
    """

    run_R: Tensor
    adapter_A: Tensor
    bounds_A1: Tensor
    runs_by_adapter: Tensor
    first_run_G1: Tensor

    def on_host(self) -> Runs:
        """Returns the same runs for `residual_adapters`."""
        return list(zip(self.adapter_A.tolist(), self.bounds_A1.diff().tolist(), strict=True))


def residual_adapters_reference(
    z_Nd: Tensor, weight_Gdd: Tensor | None, bias_Gd: Tensor | None, row_R: Tensor, runs: Runs
) -> Tensor:
    """The definition, row by row. Same arguments and result as `residual_adapters`."""
    adapter_R = [adapter for adapter, rows in runs for _ in range(rows)]
    out = [z_Nd[:0]]
    for row, adapter in zip(row_R.tolist(), adapter_R, strict=True):
        y = x = z_Nd[row]
        if adapter >= 0 and weight_Gdd is not None:
            y = y + F.silu(weight_Gdd[adapter] @ x)
        if adapter >= 0 and bias_Gd is not None:
            y = y + bias_Gd[adapter]
        out.append(y[None])
    return torch.cat(out)


def residual_adapters(
    z_Nd: Tensor, weight_Gdd: Tensor | None, bias_Gd: Tensor | None, row_R: Tensor, runs: Runs
) -> Tensor:
    """Returns y for all rows, [R, d].

    Args:
        z_Nd: input vectors; a vector may be the input of several rows.
        weight_Gdd: W; None leaves the term out.
        bias_Gd: b; None leaves the term out.
        row_R: index of each row's input vector.
        runs: see `Runs`; their rows add up to R. Adapters without rows cost nothing and get a zero
            gradient.
    """
    assert sum(rows for _, rows in runs) == len(row_R), "runs and rows differ"
    out: Tensor = _ResidualAdapters.apply(z_Nd, weight_Gdd, bias_Gd, row_R, runs)
    return out


def grouped_adapters(
    z_Nd: Tensor,
    weight_Gdd: Tensor | None,
    bias_Gd: Tensor | None,
    row_R: Tensor | None,
    runs: DeviceRuns,
) -> Tensor:
    """Computes `residual_adapters` on a GPU with as many launches for a thousand runs as for one.

    The host does not wait for the device.

    Args:
        z_Nd, weight_Gdd, bias_Gd: as for `residual_adapters`.
        row_R: index of each row's input vector; None if row r has the input z[r].
        runs: the runs of the rows.
    """
    out: Tensor = _GroupedAdapters.apply(z_Nd, weight_Gdd, bias_Gd, row_R, runs)
    return out


class _GroupedAdapters(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_Nd: Tensor,
        weight_Gdd: Tensor | None,
        bias_Gd: Tensor | None,
        row_R: Tensor | None,
        runs: DeviceRuns,
    ) -> Tensor:
        ctx.gathers = row_R is not None
        if row_R is None:
            row_R = torch.arange(len(z_Nd), device=z_Nd.device)
        ctx.save_for_backward(z_Nd, weight_Gdd, bias_Gd, row_R)
        ctx.runs = runs
        out_Rd: Tensor = ADAPTERS_FORWARD(z_Nd, weight_Gdd, bias_Gd, row_R, runs)
        return out_Rd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_Nd, weight_Gdd, bias_Gd, row_R = ctx.saved_tensors
        through_Rd, grad_weight, grad_bias = ADAPTERS_BACKWARD(
            z_Nd, weight_Gdd, bias_Gd, row_R, ctx.runs, grads[0]
        )
        grad_z_Nd = through_Rd
        if ctx.gathers:
            grad_z_Nd = torch.zeros_like(z_Nd).index_add_(0, row_R, through_Rd)
        return grad_z_Nd, grad_weight, grad_bias, None, None


def _forward_of_runs(
    z_Nd: Tensor,
    weight_Gdd: Tensor | None,
    bias_Gd: Tensor | None,
    row_R: Tensor,
    runs: DeviceRuns,
) -> Tensor:
    """The reference of `adapters_forward` in `residual_adapters_triton.py`."""
    return residual_adapters(z_Nd, weight_Gdd, bias_Gd, row_R, runs.on_host())


def _backward_of_runs(
    z_Nd: Tensor,
    weight_Gdd: Tensor | None,
    bias_Gd: Tensor | None,
    row_R: Tensor,
    runs: DeviceRuns,
    grad_Rd: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The reference of `adapters_backward` in `residual_adapters_triton.py`."""
    x_Rd = z_Nd[row_R]
    through_Rd = grad_Rd.clone()
    grad_weight = None if weight_Gdd is None else torch.zeros_like(weight_Gdd)
    grad_bias = None if bias_Gd is None else torch.zeros_like(bias_Gd)

    first = 0
    for adapter, rows in runs.on_host():
        chosen = slice(first, first + rows)
        first += rows
        if adapter < 0:
            continue
        if weight_Gdd is not None and grad_weight is not None:
            product_rd = x_Rd[chosen] @ weight_Gdd[adapter].T
            inner_rd = torch.ops.aten.silu_backward(grad_Rd[chosen], product_rd)
            grad_weight[adapter] += inner_rd.T @ x_Rd[chosen]
            through_Rd[chosen] += inner_rd @ weight_Gdd[adapter]
        if grad_bias is not None:
            grad_bias[adapter] += grad_Rd[chosen].sum(0)
    return through_Rd, grad_weight, grad_bias


ADAPTERS_FORWARD = GpuKernel("adapters_forward", "residual_adapters_triton", 1, _forward_of_runs)
ADAPTERS_BACKWARD = GpuKernel("adapters_backward", "residual_adapters_triton", 3, _backward_of_runs)


class _ResidualAdapters(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_Nd: Tensor,
        weight_Gdd: Tensor | None,
        bias_Gd: Tensor | None,
        row_R: Tensor,
        runs: Runs,
    ) -> Tensor:
        ctx.save_for_backward(z_Nd, weight_Gdd, bias_Gd, row_R)
        ctx.runs = runs
        if weight_Gdd is not None and has_native_adapters(z_Nd, runs):
            native = NativeAdapters(z_Nd, weight_Gdd, bias_Gd, row_R, runs)
            ctx.pieces = native.pieces
            return native.forward()

        out_Rd = z_Nd.new_empty(len(row_R), z_Nd.shape[1])
        for adapter, rows in _blocks(runs, _ROWS[kind_of_device(z_Nd)]):
            out_rd = out_Rd[rows]
            torch.index_select(z_Nd, 0, row_R[rows], out=out_rd)
            if adapter >= 0 and weight_Gdd is not None:
                out_rd.add_(F.silu(out_rd @ weight_Gdd[adapter].T, inplace=True))
            if adapter >= 0 and bias_Gd is not None:
                out_rd.add_(bias_Gd[adapter])
        return out_Rd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_Nd, weight_Gdd, bias_Gd, row_R = ctx.saved_tensors
        if weight_Gdd is not None and has_native_adapters(z_Nd, ctx.runs):
            native = NativeAdapters(z_Nd, weight_Gdd, bias_Gd, row_R, ctx.runs, ctx.pieces)
            return *native.backward(grads[0]), None, None

        grad_Rd = grads[0].contiguous()
        grad_z_Nd = torch.zeros_like(z_Nd)
        grad_weight = None if weight_Gdd is None else torch.zeros_like(weight_Gdd)
        grad_bias = None if bias_Gd is None else torch.zeros_like(bias_Gd)

        for adapter, rows in _blocks(ctx.runs, _ROWS[kind_of_device(z_Nd)]):
            row_r = row_R[rows]
            grad_rd = grad_Rd[rows]
            through_rd = grad_rd
            if adapter >= 0 and weight_Gdd is not None and grad_weight is not None:
                x_rd = z_Nd.index_select(0, row_r)
                inner_rd = torch.ops.aten.silu_backward(grad_rd, x_rd @ weight_Gdd[adapter].T)
                grad_weight[adapter].addmm_(inner_rd.T, x_rd)
                through_rd = torch.addmm(grad_rd, inner_rd, weight_Gdd[adapter])

            if adapter >= 0 and grad_bias is not None:
                grad_bias[adapter] += grad_rd.sum(0)
            grad_z_Nd.index_add_(0, row_r, through_rd)
        return grad_z_Nd, grad_weight, grad_bias, None, None


def _blocks(runs: Runs, size: int) -> Iterator[tuple[int, slice]]:
    """Yields (adapter, rows), with at most `size` rows at a time."""
    first = 0
    for adapter, rows in runs:
        end = first + rows
        for start in range(first, end, size):
            yield adapter, slice(start, min(start + size, end))
        first = end
