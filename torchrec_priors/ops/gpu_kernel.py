"""Kernels of a GPU, each beside the reference that computes the same with PyTorch's operations.

A `GpuKernel` is called like a function. On a GPU, it launches Triton kernels. Where a GPU is only
pretended (`pretended_gpu`), it calls the reference, and reports its launches to a counter. So the
launches of a whole training step can be counted on a machine without a GPU.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

# Calls a kernel in place of Triton; None unless a GPU is pretended.
StandIn = Callable[["GpuKernel", tuple[Any, ...]], Any]
_stand_in: StandIn | None = None


@contextmanager
def pretended_gpu(stand_in: StandIn) -> Iterator[None]:
    """Makes this package compute CPU tensors as it computes those of a GPU.

    Args:
        stand_in: called with each kernel and its arguments; it returns what the kernel returns.
    """
    global _stand_in
    before = _stand_in
    _stand_in = stand_in
    try:
        yield
    finally:
        _stand_in = before


def on_gpu(tensor: Tensor) -> bool:
    """Returns whether a tensor is on a GPU, or treated as if it were."""
    return tensor.is_cuda or _stand_in is not None


def kind_of_device(tensor: Tensor) -> str:
    """Returns "cuda" for a tensor that is treated as one of a GPU, otherwise "cpu"."""
    return "cuda" if on_gpu(tensor) else "cpu"


def has_kernels(tensor: Tensor) -> bool:
    """Returns whether a `GpuKernel` can compute a tensor: on a GPU with Triton."""
    return _stand_in is not None or (tensor.is_cuda and _has_triton())


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class GpuKernel:
    """A function that launches Triton kernels, and its reference.

    Attributes:
        name: the function, in the module `module`.
        module: a module of this folder, which imports Triton. It is imported at the first call.
        launches: the number of kernels that a call launches, including those that fill memory.
        reference: a function with the same arguments and results.
    """

    name: str
    module: str
    launches: int
    reference: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        if _stand_in is not None:
            return _stand_in(self, arguments)
        return self.triton()(*arguments)

    def triton(self) -> Callable[..., Any]:
        """Returns the function that launches the Triton kernels."""
        module = importlib.import_module(f"{__package__}.{self.module}")
        function: Callable[..., Any] = getattr(module, self.name)
        return function
