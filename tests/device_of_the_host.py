"""Tensors that say they are on a GPU, and compute on the CPU: whole steps run as on a device that is not there.

`FakeTensorMode` would only check shapes and devices, and on a build of torch without CUDA autograd refuses its
tensors of a GPU. Tensors of this module have values, so a step on the device is also compared with one on the CPU.

    with device():
        x = torch.ones(3, device=CUDA)      # x.device is cuda:0
        x + torch.ones(3)                   # raises MixedDevicesError: a tensor of the CPU was forgotten

As on a GPU, a tensor of the CPU with a single number may take part, and only explicit copies go from one device to
the other. Kernels of this package are replaced by their references.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from torchrec_priors.ops.gpu_kernel import GpuKernel, pretended_gpu

CUDA = torch.device("cuda", 0)

# Operations that may read a tensor of one device and write one of the other.
_COPIES = {"aten::_to_copy", "aten::copy_"}


class MixedDevicesError(RuntimeError):
    """An operation got tensors of both devices."""


class DeviceTensor(Tensor):
    """A tensor that says it is on a GPU. `inner` has its numbers, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "DeviceTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=inner.device,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"DeviceTensor({self.inner})"

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def get_device(self) -> int:
        return 0

    def tolist(self):
        return self.inner.detach().tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, *_, **__) -> Tensor:
        return self.to("cpu")

    def to(self, *args, **kwargs):
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type == "cpu":
            return torch.ops.aten._to_copy(self, dtype=dtype, device=torch.device("cpu"))
        if dtype is None or dtype == self.dtype:
            return self
        return torch.ops.aten._to_copy(self, dtype=dtype, non_blocking=non_blocking)

    def __deepcopy__(self, memo):
        return DeviceTensor(self.inner.clone())


class _Device(TorchDispatchMode):
    """Makes tensors of the device where they are asked for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Computes an operation on the CPU; the results are where a GPU would have them."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    on_device = [isinstance(x, DeviceTensor) for x in tensors]
    forgotten = [
        x for x, there in zip(tensors, on_device, strict=True) if not there and x.dim() > 0
    ]
    name = func._schema.name
    if any(on_device) and forgotten and name not in _COPIES:
        shapes = [tuple(x.shape) for x in forgotten]
        raise MixedDevicesError(f"{name} got tensors of a GPU and of the CPU: {shapes}")

    asked = kwargs.get("device")
    to_device = any(on_device) if asked is None else torch.device(asked).type == "cuda"
    # The engine of autograd makes zeros with the device that it sees, which is the CPU.
    in_backward = torch._C._current_graph_task_id() != -1
    if name != "aten::_to_copy" and asked is not None and (any(on_device) or in_backward):
        to_device = True
    if name == "aten::copy_":
        to_device = on_device[0]
    inner_kwargs = dict(kwargs)
    if asked is not None:
        inner_kwargs["device"] = torch.device("cpu")
    inner_kwargs.pop("pin_memory", None)

    def unwrapped(x):
        return x.inner if isinstance(x, DeviceTensor) else x

    out = func(*tree_map(unwrapped, args), **tree_map(unwrapped, inner_kwargs))
    if not to_device:
        return out

    # An operation in place returns its argument, not a new tensor with the same numbers.
    known = {id(x.inner): x for x in tensors if isinstance(x, DeviceTensor)}

    def wrapped(x):
        if not isinstance(x, Tensor) or isinstance(x, DeviceTensor):
            return x
        return known[id(x)] if id(x) in known else DeviceTensor(x)

    wrapped_out = tree_map(wrapped, out)
    if any(on_device) and name not in _COPIES:
        return return_and_correct_aliasing(func, args, kwargs, wrapped_out)
    return wrapped_out


def _of_host(x: Any) -> Any:
    """Returns a kernel's argument with tensors of the CPU; all tensors must be on the device."""
    if isinstance(x, DeviceTensor):
        return x.inner.detach()
    if isinstance(x, Tensor):
        raise MixedDevicesError(f"a kernel got a tensor of the CPU: {tuple(x.shape)}")
    if isinstance(x, tuple | list):
        return type(x)(_of_host(part) for part in x)
    if is_dataclass(x) and not isinstance(x, type):
        return replace(x, **{item.name: _of_host(getattr(x, item.name)) for item in fields(x)})
    return x


def _kernel(kernel: GpuKernel, arguments: tuple[Any, ...]) -> Any:
    """Computes a kernel by its reference, on the CPU."""
    host = tuple(_of_host(x) for x in arguments)
    with torch.utils._python_dispatch._disable_current_modes(), _no_gpu():
        out = kernel.reference(*host)
    return tree_map(lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x, out)


@contextmanager
def _no_gpu() -> Iterator[None]:
    """A reference computes as on a CPU."""
    with patch("torchrec_priors.ops.gpu_kernel._stand_in", None):
        yield


@contextmanager
def device() -> Iterator[None]:
    """Within this block there is a GPU, with all kernels."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with (
            patch.object(Tensor, "pin_memory", lambda tensor, *_: tensor),
            patch.object(torch.cuda, "_lazy_init", lambda: None),
            pretended_gpu(_kernel),
            _Device(),
        ):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def move(module: nn.Module) -> None:
    """Moves parameters and buffers to the device, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(
                    DeviceTensor(parameter.detach().clone()), parameter.requires_grad
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = DeviceTensor(buffer.detach().clone())
