"""The device of the report: its kernels, its clock, and the rates that it reaches.

Without a GPU, the same code runs on the CPU, and kernels run in Triton's interpreter. Then the
report shows that everything works; its times are no measure of anything.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import GpuKernel, pretended_gpu

# The types of numbers that kernels are compared in.
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Triton's interpreter takes the bits of bfloat16 numbers for integers in products.
NOT_INTERPRETED = "Triton's interpreter cannot multiply bfloat16 numbers"

_SIDE = {"cuda": 8_192, "cpu": 128}  # of the matrices whose product is timed
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 16}  # floats of a copy


def the_device() -> torch.device:
    """Returns the GPU; the CPU if there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def with_kernels(device: torch.device) -> Iterator[None]:
    """Within this block the package computes by Triton kernels, on a CPU by the interpreter."""
    if device.type == "cuda":
        yield
        return

    def interpreted(kernel: GpuKernel, arguments: tuple[Any, ...]) -> Any:
        return kernel.triton()(*arguments)

    with pretended_gpu(interpreted):
        yield


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    run: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 3
) -> list[float]:
    """Returns the seconds of each repeat, from the start on the host to the end on the device."""
    for _ in range(warm_up):
        run()

    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def device_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Returns the seconds that a repeat takes on the device: the median.

    On a GPU, events are recorded around each repeat, so that the host's time to launch kernels
    counts only where the device waits for it.
    """
    if device.type == "cpu":
        return statistics.median(seconds_of(run, device, repeats, warm_up=1))

    for _ in range(3):
        run()
    pairs = []
    for _ in range(repeats):
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairs)


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """Returns the FLOP/s of a product of two large square matrices of random numbers."""
    side = _SIDE[device.type]
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty(side, side, device=device, dtype=dtype)
    seconds = device_seconds(lambda: torch.mm(left, right, out=out), device, repeats)
    return 2 * side**3 / seconds


def bandwidth(device: torch.device, repeats: int = 10) -> float:
    """Returns the bytes/s that a copy within the device's memory reads and writes."""
    source = torch.randn(_COPIED[device.type], device=device)
    target = torch.empty_like(source)
    seconds = device_seconds(lambda: target.copy_(source), device, repeats)
    return 2 * 4 * len(source) / seconds


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Returns the largest number of bytes that tensors take while a function runs.

    On a CPU, nothing is run, and the result is 0.
    """
    if device.type == "cpu":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def relative_error(fast: Tensor, slow: Tensor) -> float:
    """Returns |fast - slow| / |slow|, by the norms of all numbers; infinite for other shapes.

    Numbers that are -inf must be -inf in both. NaN is never right.
    """
    if fast.shape != slow.shape:
        return float("inf")
    fast = fast.detach().cpu().double()
    slow = slow.detach().cpu().double()
    if bool(fast.isnan().any()) or bool((fast.isneginf() != slow.isneginf()).any()):
        return float("inf")
    finite = ~slow.isneginf()
    difference = torch.linalg.vector_norm(fast[finite] - slow[finite])
    return float(difference / torch.linalg.vector_norm(slow[finite]).clamp(min=1e-30))
