"""`.metadata` of a checkpoint, read without running anything that it says.

`torch.distributed.checkpoint` writes it as a pickle, which may call whatever it names. Here every name in it stands for
an inert object, and names that no checkpoint of ours has are refused. Metadata is then made of values that were looked
at one by one: names, numbers, sizes.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from torchrec_priors.training.checkpoint.files import DCP_METADATA

_OF_DCP = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    (_OF_DCP, "Metadata"),
    (_OF_DCP, "MetadataIndex"),
    (_OF_DCP, "StorageMeta"),
    (_OF_DCP, "TensorProperties"),
    (_OF_DCP, "TensorStorageMetadata"),
    (_OF_DCP, "ChunkStorageMetadata"),
    (_OF_DCP, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # the same since Python 3.13
}
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def read_metadata(place: Path) -> Metadata:
    """What the checkpoint in the folder `place` holds: tensors alone.

    Raises:
        ValueError: the file says anything else.
        OSError: it cannot be read.
    """
    with (place / DCP_METADATA).open("rb") as file:
        try:
            said = _Inert(file).load()
        except OSError:
            raise
        except Exception as error:  # a damaged pickle may raise any
            raise ValueError(
                f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            ) from error
    return _metadata(said)


class _StandIn:
    """Of an object of the pickle: what it was called with and what it was filled with. It does nothing."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "_StandIn":
        made = object.__new__(cls)
        made.arguments = arguments
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Inert(
    pickle._Unpickler
):  # the one in Python: that in C takes any memory that a file asks for
    """Args: file: opened."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint holds")
        return type(
            name, (_StandIn,), {}
        )  # one for each place, so that none can be changed by another


def _metadata(said: Any) -> Metadata:
    state = _state(said, "Metadata")
    tensors = _each(state.get("state_dict_metadata"), str, _tensor)
    paths = _each(state.get("planner_data"), str, _path)
    stored = {
        _index(index, tensors): _place(info)
        for index, info in _require(state.get("storage_data"), dict, "storage_data").items()
    }
    version = state.get("version")
    return Metadata(
        state_dict_metadata=tensors,
        planner_data=paths,
        storage_data=stored,
        storage_meta=StorageMeta(),
        version=None if version is None else _require(version, str, "version"),
    )


def _tensor(said: Any) -> STORAGE_TYPES:
    state = _state(said, "TensorStorageMetadata")
    size = _size(state.get("size"))
    chunks = [_chunk(chunk, len(size)) for chunk in _require(state.get("chunks"), list, "chunks")]
    return TensorStorageMetadata(_properties(state.get("properties")), size, chunks)


def _chunk(said: Any, dimensions: int) -> ChunkStorageMetadata:
    state = _state(said, "ChunkStorageMetadata")
    offsets = _size(state.get("offsets"))
    sizes = _size(state.get("sizes"))
    if not len(offsets) == len(sizes) == dimensions:
        raise ValueError("a part of a tensor has other dimensions than the tensor")
    return ChunkStorageMetadata(offsets, sizes)


def _properties(said: Any) -> TensorProperties:
    """The type alone: layout and memory are as everywhere."""
    values = _require(_stand_in(said, "TensorProperties").state, tuple, "properties")
    if not values or not isinstance(values[0], torch.dtype):
        raise ValueError("a tensor has no type")
    return TensorProperties(dtype=values[0])


def _index(said: Any, tensors: Mapping[str, Any]) -> MetadataIndex:
    state = _state(said, "MetadataIndex")
    name = state.get("fqn")
    offset = state.get("offset")
    number = state.get("index")
    if name not in tensors:
        raise ValueError(f"there is no tensor '{name}', which it says is stored")
    return MetadataIndex(
        str(name),
        None if offset is None else _size(offset),
        None if number is None else _natural(number),
    )


def _place(said: Any) -> _StorageInfo:
    state = _state(said, "_StorageInfo")
    file = _require(state.get("relative_path"), str, "a file's name")
    if not file or file in (".", "..") or "/" in file or "\0" in file:
        raise ValueError(f"{file!r} is no file of the checkpoint")
    if state.get("transform_descriptors"):
        raise ValueError("a tensor is stored in another form than ours")
    return _StorageInfo(file, _natural(state.get("offset")), _natural(state.get("length")))


def _path(said: Any) -> tuple[Any, ...]:
    """Of a tensor in the nested state."""
    parts = _require(said, tuple, "planner_data")
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("planner_data is no path of names")
    return parts


def _size(said: Any) -> torch.Size:
    (numbers,) = _stand_in(said, "Size").arguments or ((),)
    return torch.Size([_natural(number) for number in _require(numbers, tuple, "a size")])


def _natural(said: Any) -> int:
    if type(said) is not int or said < 0:
        raise ValueError(f"{said!r} is no size")
    return said


def _each(said: Any, kind: type, make: Any) -> dict[Any, Any]:
    found = _require(said, dict, "names")
    return {_require(key, kind, "a name"): make(value) for key, value in found.items()}


def _state(said: Any, name: str) -> dict[str, Any]:
    state: dict[str, Any] = _require(_stand_in(said, name).state, dict, name)
    return state


def _stand_in(said: Any, name: str) -> _StandIn:
    if not isinstance(said, _StandIn) or type(said).__name__ != name:
        raise ValueError(f"there is no {name} where one is expected")
    return said


def _require(said: Any, kind: type, what: str) -> Any:
    if not isinstance(said, kind):
        raise ValueError(f"{what} is no {kind.__name__}")
    return said
