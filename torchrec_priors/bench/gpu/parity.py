"""Compares every Triton kernel with its reference, forward and gradient, in a type of numbers.

The reference computes on the CPU in float32 from the same numbers, rounded to the type. Gradients
are those of 64 adapters and 64 item sets, as `pixel8m` has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.bench.gpu.device import NOT_INTERPRETED, TYPES, relative_error
from torchrec_priors.bench.gpu.report import Report
from torchrec_priors.ops.best_tiles import TILE, TILE_MAXIMA, TILE_SCORES, TiledItems
from torchrec_priors.ops.gated_norm import NORM_BACKWARD, NORM_FORWARD
from torchrec_priors.ops.gpu_kernel import GpuKernel
from torchrec_priors.ops.hstu_attention_gpu import (
    ATTENTION_BACKWARD,
    ATTENTION_FORWARD,
    can_compute,
)
from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import SOFTMAX
from torchrec_priors.ops.keyed_dropout import DROP, DropoutKeys, hashed_salt
from torchrec_priors.ops.residual_adapters import ADAPTERS_BACKWARD, ADAPTERS_FORWARD, DeviceRuns
from torchrec_priors.ops.time_bias import TIME_BUCKETS

# The largest error by type, relative to the norm of the result. Numbers of 16 bits are also rounded
# between the products of a kernel.
LIMITS = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 4e-3}


@dataclass(frozen=True)
class Sizes:
    """The sizes of the inputs.

    Attributes:
        rows: the rows of norms and adapters.
        groups: the number of adapters and of item sets.
        negatives: the negatives of a set.
        width: the width of vectors.
        head_widths: the widths of attention's heads.
        lengths: the lengths of attention's sequences.
        users: the users of a search.
    """

    rows: int
    groups: int
    negatives: int
    width: int
    head_widths: tuple[int, ...]
    lengths: tuple[int, ...]
    users: int


SIZES = {
    "cuda": Sizes(1_500, 64, 96, 128, (32, 64, 128, 256), (400, 1, 129, 64), 70),
    "cpu": Sizes(70, 8, 5, 16, (16,), (20, 1, 66), 3),
}


@dataclass(frozen=True)
class Case:
    """A kernel and its inputs.

    Attributes:
        name: the kernel, and what distinguishes the case.
        kernel: the kernel.
        outputs: the names of its results.
        make: makes the arguments on the CPU, with vectors of a type. Parameters of norms, biases of
            attention and weights of losses are in float32, as in training.
        multiplies: whether the kernel has matrix products.
    """

    name: str
    kernel: GpuKernel
    outputs: tuple[str, ...]
    make: Callable[[torch.Generator, torch.dtype], tuple[Any, ...]]
    multiplies: bool = True


def compare(name: str, device: torch.device, report: Report) -> None:
    """Reports the largest error of each kernel.

    Args:
        name: a key of `TYPES`.
        device: the device of the kernels.
        report: called with each row.
    """
    for case in cases(SIZES[device.type], TYPES[name]):
        if device.type == "cpu" and name == "bf16" and case.multiplies:
            report("kernels", {"kernel": case.name, "skipped": NOT_INTERPRETED})
            continue
        try:
            row = _errors(case, name, device)
        except Exception as error:  # a kernel that does not compile or run must not end the section
            row = {"ok": False, "error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        report("kernels", {"kernel": case.name, **row})


def _errors(case: Case, name: str, device: torch.device) -> dict[str, object]:
    """Runs a kernel and its reference, and compares their results."""
    arguments = case.make(torch.Generator().manual_seed(0), TYPES[name])
    fast = case.kernel.triton()(*_mapped(arguments, lambda x: x.to(device)))
    slow = case.kernel.reference(
        *_mapped(arguments, lambda x: x.float() if x.is_floating_point() else x)
    )

    errors = {}
    pairs = zip(case.outputs, _tensors(fast), _tensors(slow), strict=True)
    for output, fast_one, slow_one in pairs:
        if slow_one.is_floating_point():
            errors[output] = relative_error(fast_one, slow_one)
    worst = max(errors, key=lambda output: errors[output])
    return {
        "ok": errors[worst] <= LIMITS[name],
        "largest error": errors[worst],
        "of": worst,
        "limit": LIMITS[name],
    }


def cases(sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    """Yields all kernels with inputs of these sizes; heads only as wide as the type allows."""
    norm_grads = ("grad x", "grad u", "grad weight", "grad bias")
    yield Case("norm_forward", NORM_FORWARD, ("y", "moments"), _norm(sizes, False), False)
    yield Case("norm_backward", NORM_BACKWARD, norm_grads, _norm(sizes, True), False)
    yield Case("drop", DROP, ("y",), _drop(sizes), False)

    adapter_grads = ("grad x", "grad W", "grad b")
    yield Case("adapters_forward", ADAPTERS_FORWARD, ("y",), _adapters(sizes, False))
    yield Case("adapters_backward", ADAPTERS_BACKWARD, adapter_grads, _adapters(sizes, True))

    softmax_results = ("losses", "grad queries", "grad items", "grad negatives")
    yield Case("in_group_softmax", SOFTMAX, softmax_results, _softmax(sizes))

    for width in sizes.head_widths:
        if not can_compute(torch.empty(1, 1, width, dtype=dtype)):
            continue
        grads = ("grad q", "grad k", "grad v", "grad bias", "grad time bias")
        forward = _attention(sizes, width, False)
        yield Case(f"attention_forward, d {width}", ATTENTION_FORWARD, ("out",), forward)
        backward = _attention(sizes, width, True)
        yield Case(f"attention_backward, d {width}", ATTENTION_BACKWARD, grads, backward)

    yield Case("tile_maxima", TILE_MAXIMA, ("maxima",), _tiles(sizes, False))
    yield Case("tile_scores", TILE_SCORES, ("scores", "paths"), _tiles(sizes, True), False)


_Make = Callable[[torch.Generator, torch.dtype], tuple[Any, ...]]


def _norm(sizes: Sizes, backward: bool) -> _Make:
    def make(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, ...]:
        x, u, grad = torch.randn(3, sizes.rows, sizes.width, generator=generator).to(dtype)
        weight, bias = torch.randn(2, sizes.width, generator=generator)
        key = DropoutKeys([3, 4], [sizes.rows - 2, 2]).of_tokens(torch.device("cpu"))
        norm = (x, u, weight, bias, key)
        if not backward:
            return (*norm, 1e-5, hashed_salt(7), 0.3)
        deviation = torch.rsqrt(x.float().var(1, correction=0) + 1e-5)
        return (*norm, torch.stack([x.float().mean(1), deviation]), hashed_salt(7), 0.3, grad)

    return make


def _drop(sizes: Sizes) -> _Make:
    def make(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, ...]:
        x = torch.randn(sizes.rows, sizes.width, generator=generator).to(dtype)
        key = DropoutKeys([3, 4], [sizes.rows - 2, 2]).of_tokens(torch.device("cpu"))
        return x, key, hashed_salt(7), 0.3

    return make


def _adapters(sizes: Sizes, backward: bool) -> _Make:
    def make(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, ...]:
        z = torch.randn(sizes.rows, sizes.width, generator=generator)
        weight = torch.randn(sizes.groups, sizes.width, sizes.width, generator=generator)
        bias = torch.randn(sizes.groups, sizes.width, generator=generator)
        # A run has no adapter, and the runs are of different lengths.
        share = torch.rand(sizes.groups + 1, generator=generator)
        ends = (share.cumsum(0) / share.sum() * sizes.rows).long()
        bounds = torch.cat([ends.new_zeros(1), ends])
        bounds[-1] = sizes.rows
        runs = DeviceRuns(
            run_R=torch.repeat_interleave(torch.arange(len(share)), bounds.diff()),
            adapter_A=torch.arange(-1, sizes.groups),
            bounds_A1=bounds,
            runs_by_adapter=torch.arange(1, sizes.groups + 1),
            first_run_G1=torch.arange(sizes.groups + 1),
        )
        row = torch.randint(sizes.rows, (sizes.rows,), generator=generator)
        weight = (weight / sizes.width**0.5).to(dtype)
        given = (z.to(dtype), weight, bias.to(dtype), row, runs)
        if not backward:
            return given
        return (*given, torch.randn(sizes.rows, sizes.width, generator=generator).to(dtype))

    return make


def _softmax(sizes: Sizes) -> _Make:
    def make(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, ...]:
        ids = 4 * sizes.negatives
        queries = 5 * sizes.groups
        table = torch.randn(ids, sizes.width, generator=generator).to(dtype)
        pools = [
            torch.randint(ids, (sizes.negatives,), generator=generator).sort().values
            for _ in range(sizes.groups)
        ]
        negative = torch.cat(pools)
        positive = torch.randint(ids, (2 * queries,), generator=generator)
        positives = WeighedPositives(
            item_Xd=table,
            source_M=positive,
            id_M=positive,
            query_M=torch.arange(queries).repeat_interleave(2),
            weight_M=torch.rand(2 * queries, generator=generator),
        )
        negatives = NegativeSets(table[negative], negative, [sizes.negatives] * sizes.groups)
        sets = QuerySets.of([5] * sizes.groups, torch.device("cpu"))
        query = torch.randn(queries, sizes.width, generator=generator) / sizes.width**0.5
        query = query.to(dtype)
        first = torch.arange(queries + 1) * 2
        return (
            query, sets.set_P, sets.first_S1, first, positives, negatives.on_device(), None, True
        )  # fmt: skip

    return make


def _attention(sizes: Sizes, width: int, backward: bool) -> _Make:
    def make(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, ...]:
        tokens = sum(sizes.lengths)
        packed = torch.randn(tokens, 6, width, generator=generator).to(dtype)
        offsets = torch.tensor([0, *sizes.lengths]).cumsum(0)
        order = torch.argsort(offsets.diff(), descending=True, stable=True)
        bias = torch.randn(2, max(sizes.lengths) + 3, generator=generator)
        time_bias = torch.randn(2, TIME_BUCKETS, generator=generator)
        gaps = (10.0 ** torch.randint(0, 9, (tokens,), generator=generator)).long()
        saved = (*packed.chunk(3, 1), bias, time_bias, offsets, order, gaps.cumsum(0))
        given = (saved, float(max(sizes.lengths)), width**-0.5)
        if not backward:
            return given
        return (*given, torch.randn(tokens, 2, width, generator=generator).to(dtype))

    return make


def _tiles(sizes: Sizes, scores: bool) -> _Make:
    def make(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, ...]:
        # The sets have 150, 0 and 3 items, and 1, 1 and 3 paths.
        rows = [torch.randperm(200, generator=generator)[:number] for number in (150, 0, 3)]
        padded = [torch.nn.functional.pad(row, (0, -len(row) % TILE), value=-1) for row in rows]
        items = TiledItems(
            row_E=torch.cat(padded).int(),
            set_t=torch.tensor([0, 0, 0, 2], dtype=torch.int32),
            first_path_S1=torch.tensor([0, 1, 2, 5]),
            vector_Rd=torch.randn(200, sizes.width, generator=generator).to(dtype),
        )
        query = torch.randn(sizes.users, 5, sizes.width, generator=generator).to(dtype)
        given = (items, query, torch.randn(sizes.users, 5, generator=generator))
        if not scores:
            return given
        return (*given, torch.randint(4, (sizes.users, 2), generator=generator))

    return make


def _mapped(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Changes the tensors of arguments."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, tuple | list):
        return type(x)(_mapped(part, change) for part in x)
    if is_dataclass(x) and not isinstance(x, type):
        changed = {part.name: _mapped(getattr(x, part.name), change) for part in fields(x)}
        return replace(x, **changed)
    return x


def _tensors(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [x for x in results if x is not None]
