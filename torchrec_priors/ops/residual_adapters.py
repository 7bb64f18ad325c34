"""The step of Eq. 2, 4 and 5 for the rows of many adapters, as a grouped GEMM (b is e of Eq. 5).

    y_r = x_r + SiLU(W[g(r)] x_r) + b[g(r)],    x_r = z[row_r]

Rows come in runs; all rows of a run have the same adapter. A block of rows is computed, forward and
backward, while it is in cache. Only z is kept for backward: products are computed again.

Shapes: N vectors, R rows, G adapters, d width.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = {"cpu": 1 << 10, "cuda": 1 << 20}  # in a block

# (adapter, number of rows), one run after another; adapter -1 leaves rows unchanged.
Runs = list[tuple[int, int]]


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

        out_Rd = z_Nd.new_empty(len(row_R), z_Nd.shape[1])
        for adapter, rows in _blocks(runs, _ROWS[z_Nd.device.type]):
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
        grad_Rd = grads[0].contiguous()
        grad_z_Nd = torch.zeros_like(z_Nd)
        grad_weight = None if weight_Gdd is None else torch.zeros_like(weight_Gdd)
        grad_bias = None if bias_Gd is None else torch.zeros_like(bias_Gd)

        for adapter, rows in _blocks(ctx.runs, _ROWS[z_Nd.device.type]):
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
