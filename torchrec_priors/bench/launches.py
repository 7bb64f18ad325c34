"""Counts the kernels that a GPU would be given, and how often its host would wait, without a GPU.

A training step, or a search, runs on the CPU while a GPU is pretended (`ops/gpu_kernel.py`): the
package takes the paths and block sizes of a GPU. The first step is not counted, because it does
what is done only once. While the second one runs, a `TorchDispatchMode` sees every operation that
PyTorch dispatches, forward and backward, and a `TorchFunctionMode` sees the calls that read or make
tensors. To make a batch is the work of the host, and does not count.

    kernels   an operation counts as one kernel. Operations that launch nothing do not count: views,
              allocations, and PyTorch's records for profilers. A call of a `GpuKernel` counts as
              the kernels that it launches; its reference, which computes the result here, does not
              count
    waits     places where the host waits for the device: it reads a value (`item`, `tolist`,
              `bool`), it needs a size that depends on values (`nonzero`, `unique`, a mask as an
              index, `bincount`, `repeat_interleave` without the size of its output), or it makes a
              tensor of the device from Python or NumPy numbers, which are not in pinned memory

Operations of TorchRec's table are those of its CPU implementation; on a GPU there are about as
many. Its waits are counted separately: a pipeline sends ids ahead of their step. Some operations of
PyTorch launch several kernels on a GPU (a sort, for example), and some launch none for empty
tensors; each counts as one. The counts are the same in every run.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from torchrec_priors.bench import retrieval, training
from torchrec_priors.bench.shapes import SHAPES, Shape
from torchrec_priors.bench.workload import make_workload
from torchrec_priors.common.markdown import table_lines
from torchrec_priors.ops.gpu_kernel import GpuKernel, pretended_gpu

Report = Callable[[str], None]

# The shapes that are counted. The size of the catalogue changes no count, so it is small.
COUNTED = ("merrec", "pixel8m", "ebnerd", "retrieval")
_ITEMS = 30_000

# Steps have dropout, as those of the shipped configurations.
_CHANGES = {"encoder.dropout": 0.2}

_LAUNCH_NOTHING = {
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "_reshape_alias",
    "_unsafe_view",
}
_WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_READS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.cpu: "cpu"}
_MAKES = {torch.tensor: "tensor", Tensor.new_tensor: "new_tensor", torch.from_numpy: "from_numpy"}

# What the host does with tensors of its own, to make a batch.
_ON_HOST = ("data/", "sampling/")

# The place of what TorchRec does to look up ids.
_TABLE = "embedding/lookup.py vectors_and_rows"

# The part of a step that a file belongs to: the first entry that its path begins with.
_PARTS = (
    ("encoder/", "encoder"),
    ("ops/hstu", "encoder"),
    ("ops/keyed", "encoder"),
    ("ops/gated", "encoder"),
    ("ops/pinned", "step"),
    ("heads/certainty", "step"),
    ("heads/", "heads"),
    ("ops/residual", "heads"),
    ("ops/in_group", "softmax"),
    ("ops/hidden", "softmax"),
    ("loss", "positives"),
    ("priors/", "positives"),
    ("ops/ranges", "positives"),
    ("embedding/", "lookup"),
    ("model", "lookup"),
    ("training/optimizers", "optimizer"),
    ("retrieval/", "search"),
    ("training/", "step"),
)


@dataclass
class Launches:
    """What a step or a search dispatches.

    Attributes:
        shape: the name of the shape.
        kernels: number of kernels, by part. The part `autograd` has the operations that PyTorch's
            engine dispatches in backward, and those of DDP.
        waits: number of times that the host waits, by place.
        operations: number of kernels, by place and operation.
    """

    shape: str
    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)

    def add(self, place: str, name: str, launches: int = 1) -> None:
        """Counts the kernels of an operation.

        Args:
            place: the function that dispatched it.
            name: the operation.
            launches: the number of its kernels.
        """
        self.kernels[_part(place)] += launches
        self.operations[f"{place}: {name}"] += launches

    @property
    def total(self) -> int:
        """The number of all kernels."""
        return sum(self.kernels.values())

    @property
    def waits_of_step(self) -> int:
        """The number of waits, without those of TorchRec's table.

        On a GPU, a pipeline sends the ids of a batch ahead of its step (`training/pipeline.py`).
        """
        return sum(self.waits.values()) - self.waits_of_table

    @property
    def waits_of_table(self) -> int:
        """The number of waits in TorchRec's table."""
        return sum(number for place, number in self.waits.items() if place.startswith(_TABLE))


class _Operations(TorchDispatchMode):
    """Counts dispatched operations."""

    def __init__(self, counts: Launches) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        place = _place()
        if place.startswith(_ON_HOST):
            pass
        elif _waits(name, args, kwargs):
            self.counts.waits[f"{place}: {name}"] += 1
        elif not func.is_view and name not in _LAUNCH_NOTHING and "record_function" not in name:
            self.counts.add(place, name)
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Counts calls that read tensors without an operation, and those that make tensors."""

    def __init__(self, counts: Launches) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        place = _place()
        if (func in _READS or func in _MAKES) and not place.startswith(_ON_HOST):
            name = _READS.get(func) or _MAKES[func]
            if not place.startswith("ops/pinned"):
                self.counts.waits[f"{place}: {name}"] += 1
            if func in _MAKES:
                self.counts.add(place, name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(counts: Launches) -> Iterator[None]:
    """Counts what the block dispatches."""
    with _Calls(counts), _Operations(counts):
        yield


def launches_of(shape: Shape, folder: Path, changes: dict[str, Any] | None = None) -> Launches:
    """Counts the second training step of a shape, or the second search.

    Args:
        shape: the sizes.
        folder: an empty folder for the shape's data set.
        changes: dotted name -> value, which replaces that of the configuration.
    """
    make_workload(shape, folder / "data")
    counts = Launches(shape.name)

    def stand_in(kernel: GpuKernel, arguments: tuple[Any, ...]) -> Any:
        counting = torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        if not counting:
            return kernel.reference(*arguments)
        counts.add(_place(), kernel.name, kernel.launches)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return kernel.reference(*arguments)

    kind: Any = retrieval if shape.top else training
    changes = {**({} if shape.top else _CHANGES), **(changes or {})}
    with pretended_gpu(stand_in), kind.runner(shape, folder / "data", changes) as run:
        run(0)
        with counted(counts):
            run(1)
    return counts


def count_launches(report: Report) -> list[Launches]:
    """Counts all shapes."""
    rows = []
    for name in COUNTED:
        report(f"launches: {name}")
        shape = replace(SHAPES[name], items=_ITEMS)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rows.append(launches_of(shape, Path(folder)))
    return rows


def table(rows: list[Launches]) -> str:
    """Writes the counts as a Markdown table, and the places of the waits below it."""
    parts = sorted({part for row in rows for part in row.kernels})
    cells = [
        [row.shape, str(row.total), str(row.waits_of_step), str(row.waits_of_table)]
        + [str(row.kernels[part]) for part in parts]
        for row in rows
    ]
    lines = [
        "# launches",
        "",
        *table_lines(["shape", "kernels", "waits", "of the table", *parts], cells),
    ]
    for row in rows:
        lines += ["", f"waits of {row.shape}:"]
        lines += [f"- {place} ({number})" for place, number in sorted(row.waits.items())]
    return "\n".join(lines)


def as_json(rows: list[Launches]) -> str:
    """Writes the counts as JSON."""
    counted_rows = [
        {
            "kernels": row.total,
            "waits": row.waits_of_step,
            "waits_of_table": row.waits_of_table,
            "counts": asdict(row),
        }
        for row in rows
    ]
    return json.dumps({"rows": counted_rows}, indent=1)


def _waits(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether an operation makes the host wait for the device."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_"):
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return name in _WAITS


def _place() -> str:
    """Returns the innermost function of this package that is running, outside this folder."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "torchrec_priors/" in path and "/bench/" not in path and "gpu_kernel" not in path:
            return f"{path.rsplit('torchrec_priors/', 1)[1]} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


def _part(place: str) -> str:
    """Returns the part of the step that a function belongs to."""
    if place == "training/step.py _backward":
        return "autograd"
    return next((part for prefix, part in _PARTS if place.startswith(prefix)), "other")
