"""Counts where the host waits for the device, by PyTorch's warnings about it.

`torch.cuda.set_sync_debug_mode("warn")` warns at each operation that waits: a read of a number, a
size that depends on values, a copy from memory that is not pinned.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

_MESSAGE = "called a synchronizing CUDA operation"


def count_waits(run: Callable[[], object], device: torch.device) -> Counter[str]:
    """Runs a function, and returns the number of waits by the place in this package."""
    waits: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if _MESSAGE in str(message):
            waits[_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        # Set last, because turning the mode on warns, too.
        warnings.showwarning = note
        try:
            run()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return waits


def _place() -> str:
    """Returns the innermost function of the package that is running, outside `bench/gpu`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "torchrec_priors/" in path and "bench/gpu/" not in path:
            return f"{path.rsplit('torchrec_priors/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
