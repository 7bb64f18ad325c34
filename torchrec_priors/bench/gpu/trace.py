"""Reads what a GPU did from a profiler's trace: its kernels, and how long it waited.

Intervals of kernels, copies and fills are merged, because streams may overlap. The idle share is
the part of the time from the first one's start to the last one's end that no interval covers.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from torchrec_priors.bench.gpu.device import synchronize

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}


@dataclass(frozen=True)
class Busy:
    """What a device did.

    Attributes:
        kernels: the number of kernels.
        copies: the number of copies and fills of memory.
        busy: seconds in which at least one of them was running.
        span: seconds from the first one's start to the last one's end.
        seconds_of: name of a kernel -> its seconds, all calls together.
        calls_of: name of a kernel -> the number of its calls.
    """

    kernels: int
    copies: int
    busy: float
    span: float
    seconds_of: dict[str, float]
    calls_of: dict[str, int]

    @property
    def idle_share(self) -> float:
        """The share of the span in which nothing was running."""
        return 1.0 - self.busy / self.span if self.span else 0.0

    @classmethod
    def of(cls, events: list[dict[str, Any]]) -> "Busy":
        """Reads the events of a trace in Chrome's format; their times are in microseconds."""
        chosen = [event for event in events if event.get("cat") in _ON_DEVICE and "dur" in event]
        chosen.sort(key=lambda event: event["ts"])

        busy = 0.0
        end = float("-inf")
        seconds_of: Counter[str] = Counter()
        calls_of: Counter[str] = Counter()
        for event in chosen:
            own_end = event["ts"] + event["dur"]
            busy += max(0.0, own_end - max(end, event["ts"]))
            end = max(end, own_end)
            if event["cat"] == "kernel":
                seconds_of[event["name"]] += event["dur"] / 1e6
                calls_of[event["name"]] += 1

        kernels = sum(calls_of.values())
        span = end - chosen[0]["ts"] if chosen else 0.0
        return cls(
            kernels, len(chosen) - kernels, busy / 1e6, span / 1e6, dict(seconds_of), dict(calls_of)
        )


def traced(run: Callable[[], object], device: torch.device, repeats: int) -> Busy:
    """Runs a function a few times under PyTorch's profiler, and reads the trace."""
    # Operations of the host are left out on a GPU: to record them would slow the host down, and the
    # device would wait longer.
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    if device.type == "cuda":
        # The first trace of a process also loads the profiler.
        with profile(activities=activities):
            run()
            synchronize(device)

    synchronize(device)
    with profile(activities=activities) as profiler:
        for _ in range(repeats):
            run()
        synchronize(device)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return Busy.of(json.loads(file.read_text())["traceEvents"])
