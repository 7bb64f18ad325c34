"""The adapters of many heads as one grouped GEMM by Triton kernels, forward and both gradients.

Rows are sorted by run (`DeviceRuns`). A program of the forward kernel computes one block of rows
and of columns: it goes through the runs that have rows in its block, and rows of other runs are
zeros in its products. So the number of launches does not depend on the number of runs, and the host
never reads how many rows a run has.

Gradients take three kernels: through SiLU, through the products, and the sums over the rows of each
adapter. There are no atomics, so a repeated step gives the same bits. Factors of products have the
type of the inputs, and sums are in float32.

Shapes: N vectors, R rows, A runs, G adapters, d width.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels have no annotations: Triton reads the types of the arguments at each call.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrec_priors.ops.residual_adapters import DeviceRuns

ROWS = 64  # in a block
COLUMNS = 64
DEPTH = 32  # columns of the inputs that are multiplied at a time


@triton.jit
def _block(row, run, rows, ROWS: tl.constexpr):
    """Returns this program's rows, the rows' inputs and runs, and its first and last run."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = place < rows
    source = tl.load(row + place, mask=exists, other=0)
    run_of_row = tl.load(run + place, mask=exists, other=-1)
    first = tl.load(run + tl.program_id(0) * ROWS)
    last = tl.load(run + tl.minimum(tl.program_id(0) * ROWS + ROWS, rows) - 1)
    return place, exists, source, run_of_row, first, last


@triton.jit
def _product(
    z, weight, source, of_run, columns, width, total,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds W x of the rows of one run to `total`, [ROWS, COLUMNS]; `weight` is the run's matrix."""
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = depth < width
        x = tl.load(
            z + source[:, None] * width + depth[None, :],
            mask=of_run[:, None] & inside[None, :],
            other=0.0,
        )
        w = tl.load(
            weight + columns[:, None] * width + depth[None, :],
            mask=(columns < width)[:, None] & inside[None, :],
            other=0.0,
        )
        total = tl.dot(x, tl.trans(w), total, input_precision=PRECISION)
    return total


@triton.jit
def _forward(
    z, weight, bias, row, run, adapter, out, rows, width,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes y of a block."""
    place, exists, source, run_of_row, first, last = _block(row, run, rows, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    added = tl.zeros([ROWS, COLUMNS], tl.float32)

    for number in range(first, last + 1):
        of_run = run_of_row == number
        own = tl.load(adapter + number)
        if (own >= 0) & (tl.max(of_run.to(tl.int32)) > 0):
            if HAS_WEIGHT:
                total = _product(
                    z, weight + own * width * width, source, of_run, columns, width, total,
                    DEPTH, PRECISION,
                )  # fmt: skip
            if HAS_BIAS:
                b = tl.load(bias + own * width + columns, mask=columns < width, other=0.0)
                added += tl.where(of_run[:, None], b[None, :].to(tl.float32), 0.0)

    # SiLU(0) is 0: rows without an adapter stay as they are.
    inside = exists[:, None] & (columns < width)[None, :]
    x = tl.load(z + source[:, None] * width + columns[None, :], mask=inside, other=0.0)
    y = x.to(tl.float32) + total / (1.0 + tl.exp(-total)) + added
    at = out + place.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _through_silu(
    z, weight, row, run, adapter, grad, inner, rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of W x of a block; 0 for rows without an adapter."""
    place, exists, source, run_of_row, first, last = _block(row, run, rows, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    adapted = tl.zeros([ROWS], tl.int32)

    for number in range(first, last + 1):
        of_run = run_of_row == number
        own = tl.load(adapter + number)
        if (own >= 0) & (tl.max(of_run.to(tl.int32)) > 0):
            total = _product(
                z, weight + own * width * width, source, of_run, columns, width, total,
                DEPTH, PRECISION,
            )  # fmt: skip
            adapted += of_run.to(tl.int32)

    # The derivative of SiLU(s) is sigmoid(s) (1 + s (1 - sigmoid(s))).
    inside = exists[:, None] & (columns < width)[None, :]
    offset = place.to(tl.int64)[:, None] * width + columns[None, :]
    g = tl.load(grad + offset, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-total))
    through = tl.where((adapted > 0)[:, None], g * sigmoid * (1.0 + total * (1.0 - sigmoid)), 0.0)
    tl.store(inner + offset, through.to(inner.dtype.element_ty), mask=inside)


@triton.jit
def _through_product(
    weight, row, run, adapter, grad, inner, through, rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of x of a block."""
    place, exists, _, run_of_row, first, last = _block(row, run, rows, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)

    for number in range(first, last + 1):
        of_run = run_of_row == number
        own = tl.load(adapter + number)
        if (own >= 0) & (tl.max(of_run.to(tl.int32)) > 0):
            for start in range(0, width, DEPTH):
                depth = start + tl.arange(0, DEPTH)
                g = tl.load(
                    inner + place.to(tl.int64)[:, None] * width + depth[None, :],
                    mask=of_run[:, None] & (depth < width)[None, :],
                    other=0.0,
                )
                w = tl.load(
                    weight + own * width * width + depth[:, None] * width + columns[None, :],
                    mask=(depth < width)[:, None] & (columns < width)[None, :],
                    other=0.0,
                )
                total = tl.dot(g, w, total, input_precision=PRECISION)

    inside = exists[:, None] & (columns < width)[None, :]
    offset = place.to(tl.int64)[:, None] * width + columns[None, :]
    total += tl.load(grad + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(through + offset, total.to(through.dtype.element_ty), mask=inside)


@triton.jit
def _of_adapters(
    z, row, grad, inner, bounds, runs, first_run, grad_weight, grad_bias, width,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes a block of an adapter's gradients: sums over the rows of all its runs."""
    own = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(width, COLUMNS)
    outputs = tl.program_id(1) // blocks * COLUMNS + tl.arange(0, COLUMNS)
    inputs = tl.program_id(1) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS, COLUMNS], tl.float32)
    total_bias = tl.zeros([COLUMNS], tl.float32)

    for index in range(tl.load(first_run + own), tl.load(first_run + own + 1)):
        number = tl.load(runs + index)
        end = tl.load(bounds + number + 1)
        for start in range(tl.load(bounds + number), end, ROWS):
            place = start + tl.arange(0, ROWS)
            exists = place < end
            at = place.to(tl.int64)[:, None] * width + outputs[None, :]
            inside = exists[:, None] & (outputs < width)[None, :]
            if HAS_WEIGHT:
                source = tl.load(row + place, mask=exists, other=0)
                x = tl.load(
                    z + source[:, None] * width + inputs[None, :],
                    mask=exists[:, None] & (inputs < width)[None, :],
                    other=0.0,
                )
                g = tl.load(inner + at, mask=inside, other=0.0)
                total = tl.dot(tl.trans(g), x, total, input_precision=PRECISION)
            if HAS_BIAS:
                total_bias += tl.sum(tl.load(grad + at, mask=inside, other=0.0).to(tl.float32), 0)

    if HAS_WEIGHT:
        tl.store(
            grad_weight + own * width * width + outputs[:, None] * width + inputs[None, :],
            total.to(grad_weight.dtype.element_ty),
            mask=(outputs < width)[:, None] & (inputs < width)[None, :],
        )
    if HAS_BIAS:  # noqa: SIM102 - `and` would make a branch that runs on the device
        # All blocks with the same outputs have the same sums; the first of them writes them.
        if tl.program_id(1) % blocks == 0:
            tl.store(
                grad_bias + own * width + outputs,
                total_bias.to(grad_bias.dtype.element_ty),
                mask=outputs < width,
            )


def precision() -> str:
    """Returns how products of float32 numbers are computed.

    tf32 keeps 10 of a float32's 23 mantissa bits; tf32x3's three products keep almost all.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _constants(**more: Any) -> dict[str, Any]:
    return {
        "ROWS": ROWS, "COLUMNS": COLUMNS, "PRECISION": precision(), "num_warps": 8, **more
    }  # fmt: skip


def adapters_forward(
    z_Nd: Tensor,
    weight_Gdd: Tensor | None,
    bias_Gd: Tensor | None,
    row_R: Tensor,
    runs: DeviceRuns,
) -> Tensor:
    """Returns y for all rows, [R, d]; see `residual_adapters`."""
    rows, width = len(row_R), z_Nd.shape[1]
    out_Rd = z_Nd.new_empty(rows, width)
    if not rows:
        return out_Rd

    # Kernels need a pointer for every argument; what they do not read is any tensor.
    _forward[(triton.cdiv(rows, ROWS), triton.cdiv(width, COLUMNS))](
        z_Nd.contiguous(),
        z_Nd if weight_Gdd is None else weight_Gdd.contiguous(),
        z_Nd if bias_Gd is None else bias_Gd.contiguous(),
        row_R, runs.run_R, runs.adapter_A, out_Rd, rows, width,
        HAS_WEIGHT=weight_Gdd is not None, HAS_BIAS=bias_Gd is not None,
        **_constants(DEPTH=DEPTH),
    )  # fmt: skip
    return out_Rd


def adapters_backward(
    z_Nd: Tensor,
    weight_Gdd: Tensor | None,
    bias_Gd: Tensor | None,
    row_R: Tensor,
    runs: DeviceRuns,
    grad_Rd: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Returns the gradients of each row's input, [R, d], of the matrices, and of the vectors."""
    rows, width = len(row_R), z_Nd.shape[1]
    z_Nd = z_Nd.contiguous()
    grad_Rd = grad_Rd.contiguous()
    grad_weight = None if weight_Gdd is None else torch.empty_like(weight_Gdd)
    grad_bias = None if bias_Gd is None else torch.empty_like(bias_Gd)
    through_Rd = grad_Rd
    inner_Rd = grad_Rd

    if weight_Gdd is not None and rows:
        weight_Gdd = weight_Gdd.contiguous()
        through_Rd = torch.empty_like(grad_Rd)
        inner_Rd = torch.empty_like(grad_Rd)
        grid = (triton.cdiv(rows, ROWS), triton.cdiv(width, COLUMNS))
        shared = (row_R, runs.run_R, runs.adapter_A, grad_Rd, inner_Rd)
        constants = _constants(DEPTH=DEPTH)
        _through_silu[grid](z_Nd, weight_Gdd, *shared, rows, width, **constants)
        _through_product[grid](weight_Gdd, *shared, through_Rd, rows, width, **constants)

    adapters = len(runs.first_run_G1) - 1
    blocks = triton.cdiv(width, COLUMNS)
    _of_adapters[(adapters, blocks * blocks)](
        z_Nd, row_R, grad_Rd, inner_Rd, runs.bounds_A1, runs.runs_by_adapter, runs.first_run_G1,
        z_Nd if grad_weight is None else grad_weight,
        z_Nd if grad_bias is None else grad_bias,
        width,
        HAS_WEIGHT=grad_weight is not None, HAS_BIAS=grad_bias is not None, **_constants(),
    )  # fmt: skip
    return through_Rd, grad_weight, grad_bias
