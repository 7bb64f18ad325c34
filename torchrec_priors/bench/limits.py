"""Measures the limits of the machine: matrix products, memory, and the links between ranks."""

import statistics
import time

import torch
import torch.distributed as dist

# The sizes are so large that caches and the overhead of a call hardly change the result.
_SIDE = 1_536
_COPIED = 1 << 26  # floats of a copy
_SENT = 1 << 22  # floats of an all-to-all


class Products:
    """Products of two square float32 matrices, whose rate is measured again and again.

    They use the number of threads that torch has.
    """

    def __init__(self) -> None:
        self._left = torch.randn(_SIDE, _SIDE)
        self._right = torch.randn(_SIDE, _SIDE)
        self._out = torch.empty(_SIDE, _SIDE)
        self.rate(1)  # a warm-up

    def rate(self, repeats: int = 3) -> float:
        """Returns the FLOP/s of a product; the median of the repeats."""
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            torch.mm(self._left, self._right, out=self._out)
            seconds.append(time.perf_counter() - started)
        return 2 * _SIDE**3 / statistics.median(seconds)


def bandwidth(repeats: int = 7) -> float:
    """Returns the bytes/s that a copy of memory reads and writes; the median of the repeats."""
    source = torch.zeros(_COPIED)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - started)

    # The first copy also allocates the pages of the target.
    return 2 * 4 * _COPIED / statistics.median(seconds[1:])


def link_bandwidth(ranks: int, repeats: int) -> float:
    """Returns the bytes/s of an all-to-all between all ranks, the best of the repeats.

    The part that a rank sends to itself counts, too, as in the planner. A single rank has 0.
    """
    if ranks == 1:
        return 0.0

    sent = torch.zeros(_SENT)
    received = torch.empty(_SENT)
    seconds = []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        dist.all_to_all_single(received, sent)
        seconds.append(time.perf_counter() - started)
    return 4 * _SENT / min(seconds)
