"""Imports this package where only torch, NumPy and Triton are installed.

`stand_in()` puts a placeholder in the place of every other library that the package imports, whether
it is installed or not. A placeholder has any name that is asked for: a class that accepts any
arguments and does nothing. Code that only names a library, as in a type or a base class, then works;
code that needs it does not. `tests/test_gpu_report.py` says what works.

One class is real: ids in place of TorchRec's `KeyedJaggedTensor`, for a table on one device.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[1]

# All that the package imports, except torch, NumPy, Triton, and what torch needs itself.
REPLACED = frozenset({
    "annotated_types", "duckdb", "fastapi", "fbgemm_gpu", "httptools", "ibis", "igraph",
    "leidenalg", "matplotlib", "optuna", "prometheus_client", "pyarrow", "pydantic",
    "pydantic_core", "redis", "safetensors", "scipy", "starlette", "tensorboard", "tomli_w",
    "torchrec", "torchx", "tqdm", "typer", "uvicorn", "uvloop",
})  # fmt: skip


class _Placeholder(ModuleType):
    """A module that has every name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        generic = classmethod(lambda cls, _: cls)
        made = type(name, (), {"__init__": _accept, "__class_getitem__": generic})
        setattr(self, name, made)
        return made


def _accept(*_: object, **__: object) -> None:
    """Accepts any arguments."""


class _Finder(MetaPathFinder, Loader):
    """Finds a placeholder for every module of the replaced libraries."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] in REPLACED:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: a placeholder needs no code."""


def stand_in() -> None:
    """Makes `torchrec_priors` importable in this process, without its libraries."""
    sys.meta_path.insert(0, _Finder())

    # The package's own `__init__` insists on TorchRec's version.
    package: Any = ModuleType("torchrec_priors")
    package.__path__ = [str(ROOT / "torchrec_priors")]
    sys.modules["torchrec_priors"] = package

    # The settings of the report are right; to check their ranges needs pydantic.
    ranges: Any = importlib.import_module("torchrec_priors.settings.ranges")
    ranges.check_ranges = _accept

    plain_table = importlib.import_module("torchrec_priors.bench.gpu.plain_table")
    jagged: Any = importlib.import_module("torchrec.sparse.jagged_tensor")
    jagged.KeyedJaggedTensor = plain_table.PlainIds
