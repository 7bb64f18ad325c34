"""What the machine can do, measured beside what is compared with it."""

import statistics
import time

import torch

_SIDE = 1_536
_COPIED = 1 << 26  # floats


def matmul_rate(repeats: int = 15) -> float:
    """FLOP/s of the product of two square float32 matrices, with the threads that torch has; the median."""
    left = torch.randn(_SIDE, _SIDE)
    right = torch.randn(_SIDE, _SIDE)
    out = torch.empty(_SIDE, _SIDE)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / statistics.median(seconds[1:])


def bandwidth(repeats: int = 7) -> float:
    """Bytes/s that a copy of memory reads and writes; the median."""
    source = torch.zeros(_COPIED)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - started)
    return 2 * 4 * _COPIED / statistics.median(seconds[1:])
