"""The kernels of `gated_norm.py`, and the dropout of `keyed_dropout.py` on a GPU.

A program has a few whole rows. For the gradients of the norm's parameters, a program of the
backward kernel goes through several blocks of rows and writes their sum; the sums of all programs
are added in order, so a repeated step gives the same bits.

Shapes: N rows, d columns.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels have no annotations: Triton reads the types of the arguments at each call.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrec_priors.ops.keyed_dropout import threshold

_CELLS = 1 << 11  # numbers that a program has at a time
_PROGRAMS = 256  # of the backward kernel, at most


@triton.jit
def _kept(keys, row, exists, column, salt, threshold):
    """Returns which units are kept: `hashed_mask`."""
    key = tl.load(keys + row, mask=exists, other=0).to(tl.uint64, bitcast=True)
    bits = key[:, None] + (column.to(tl.int64)[None, :] + salt).to(tl.uint64, bitcast=True)
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    bits = bits ^ (bits >> 31)
    return (bits >> 40).to(tl.int32) >= threshold


@triton.jit
def _rows(base, row, exists, column, width, stride):
    """Loads whole rows as float32; zeros where none exists."""
    inside = exists[:, None] & (column < width)[None, :]
    at = base + row.to(tl.int64)[:, None] * stride + column[None, :]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _forward(
    x, u, weight, bias, keys, out, means, deviations,
    rows, width, x_row, u_row, eps, salt, threshold, scale,
    DROPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes y of a few rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    column = tl.arange(0, WIDTH)
    is_column = column < width
    values = _rows(x, row, exists, column, width, x_row)

    mean = tl.sum(values, 1) / width
    centred = tl.where(is_column[None, :], values - mean[:, None], 0.0)
    deviation = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    w = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)
    y = (centred * deviation[:, None] * w[None, :] + b[None, :]) * _rows(
        u, row, exists, column, width, u_row
    )
    if DROPS:
        y = tl.where(_kept(keys, row, exists, column, salt, threshold), y * scale, 0.0)

    tl.store(means + row, mean, mask=exists)
    tl.store(deviations + row, deviation, mask=exists)
    at = out + row.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=exists[:, None] & is_column[None, :])


@triton.jit
def _backward(
    x, u, weight, bias, keys, means, deviations, grad, grad_x, grad_u, sums,
    rows, width, x_row, u_row, blocks, salt, threshold, scale,
    DROPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of some blocks of rows, and their sums for the parameters."""
    column = tl.arange(0, WIDTH)
    is_column = column < width
    w = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)
    sum_w = tl.zeros([WIDTH], tl.float32)
    sum_b = tl.zeros([WIDTH], tl.float32)

    for block in range(tl.program_id(0) * blocks, (tl.program_id(0) + 1) * blocks):
        row = block * ROWS + tl.arange(0, ROWS)
        exists = row < rows
        inside = exists[:, None] & is_column[None, :]
        mean = tl.load(means + row, mask=exists, other=0.0)
        deviation = tl.load(deviations + row, mask=exists, other=0.0)
        unit = (_rows(x, row, exists, column, width, x_row) - mean[:, None]) * deviation[:, None]
        unit = tl.where(inside, unit, 0.0)
        gate = _rows(u, row, exists, column, width, u_row)
        g = _rows(grad, row, exists, column, width, width)
        if DROPS:
            g = tl.where(_kept(keys, row, exists, column, salt, threshold), g * scale, 0.0)

        by_norm = g * gate
        by_unit = by_norm * w[None, :]
        sum_w += tl.sum(by_norm * unit, 0)
        sum_b += tl.sum(by_norm, 0)
        along = tl.sum(by_unit * unit, 1) / width
        through = by_unit - (tl.sum(by_unit, 1) / width)[:, None] - unit * along[:, None]

        offset = row.to(tl.int64)[:, None] * width + column[None, :]
        through = (through * deviation[:, None]).to(grad_x.dtype.element_ty)
        tl.store(grad_x + offset, through, mask=inside)
        through_gate = (g * (unit * w[None, :] + b[None, :])).to(grad_u.dtype.element_ty)
        tl.store(grad_u + offset, through_gate, mask=inside)

    at = sums + tl.program_id(0) * 2 * width + column
    tl.store(at, sum_w, mask=is_column)
    tl.store(at + width, sum_b, mask=is_column)


@triton.jit
def _drop(
    x, keys, out, rows, width, salt, threshold, scale, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Writes the kept units of a few rows, times `scale`, and zeros for the others."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    values = _rows(x, row, exists, column, width, width)
    kept = _kept(keys, row, exists, column, salt, threshold)
    at = out + row.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(
        at,
        tl.where(kept, values * scale, 0.0).to(out.dtype.element_ty),
        mask=exists[:, None] & (column < width)[None, :],
    )


def _sizes(width: int) -> dict[str, Any]:
    """Returns the block sizes for rows of this width."""
    padded = triton.next_power_of_2(width)
    return {"ROWS": max(1, min(32, _CELLS // padded)), "WIDTH": padded, "num_warps": 4}


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def norm_forward(
    x_Nd: Tensor,
    u_Nd: Tensor,
    weight_d: Tensor,
    bias_d: Tensor,
    key_N: Tensor | None,
    eps: float,
    salt: int,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Returns y, and the means and reciprocal deviations of the rows; see `NORM_FORWARD`."""
    rows, width = x_Nd.shape
    x_Nd, u_Nd = _last_contiguous(x_Nd), _last_contiguous(u_Nd)
    out_Nd = torch.empty(rows, width, dtype=u_Nd.dtype, device=u_Nd.device)
    moments_2N = torch.empty(2, rows, device=u_Nd.device)
    if rows:
        sizes = _sizes(width)
        _forward[(triton.cdiv(rows, sizes["ROWS"]),)](
            x_Nd, u_Nd, weight_d, bias_d, x_Nd if key_N is None else key_N, out_Nd, *moments_2N,
            rows, width, x_Nd.stride(0), u_Nd.stride(0), eps, salt, threshold(p), 1 / (1 - p),
            DROPS=key_N is not None, **sizes,
        )  # fmt: skip
    return out_Nd, moments_2N


def norm_backward(
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
    """Returns the gradients of x, u, the weight and the bias; see `NORM_BACKWARD`."""
    rows, width = x_Nd.shape
    x_Nd, u_Nd = _last_contiguous(x_Nd), _last_contiguous(u_Nd)
    grad_x = torch.empty(rows, width, dtype=x_Nd.dtype, device=x_Nd.device)
    grad_u = torch.empty(rows, width, dtype=u_Nd.dtype, device=u_Nd.device)
    sizes = _sizes(width)
    all_blocks = triton.cdiv(rows, sizes["ROWS"])
    blocks = max(1, triton.cdiv(all_blocks, _PROGRAMS))
    programs = triton.cdiv(all_blocks, blocks)
    sums = torch.empty(programs, 2, width, device=x_Nd.device)
    if rows:
        _backward[(programs,)](
            x_Nd, u_Nd, weight_d, bias_d, x_Nd if key_N is None else key_N, *moments_2N,
            grad_Nd.contiguous(), grad_x, grad_u, sums,
            rows, width, x_Nd.stride(0), u_Nd.stride(0), blocks, salt, threshold(p), 1 / (1 - p),
            DROPS=key_N is not None, **sizes,
        )  # fmt: skip
    grad_weight, grad_bias = sums.sum(0)
    return grad_x, grad_u, grad_weight.to(weight_d.dtype), grad_bias.to(bias_d.dtype)


def drop(x_ND: Tensor, key_N: Tensor, salt: int, p: float) -> Tensor:
    """Returns the kept units divided by 1 - p, and zeros for the others; see `DROP`."""
    rows, width = x_ND.shape
    out_ND = torch.empty_like(x_ND, memory_format=torch.contiguous_format)
    if out_ND.numel():
        columns = min(triton.next_power_of_2(width), 1024)
        height = max(1, _CELLS // columns)
        _drop[(triton.cdiv(rows, height), triton.cdiv(width, columns))](
            x_ND.contiguous(), key_N, out_ND, rows, width, salt, threshold(p), 1 / (1 - p),
            ROWS=height, WIDTH=columns, num_warps=4,
        )  # fmt: skip
    return out_ND
