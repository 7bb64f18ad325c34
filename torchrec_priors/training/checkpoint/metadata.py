"""Reads `.metadata` of a checkpoint without running anything that it names.

`torch.distributed.checkpoint` writes it as a pickle, which may call whatever it names. Here every
name in it is replaced by an inert object, and names that no checkpoint of ours has are rejected.
The metadata is then built from values that were checked one by one: names, numbers, sizes.
"""

import pickle
from collections.abc import Callable, Mapping
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

from torchrec_priors.training.checkpoint.keys import DCP_METADATA

# What the pickle of a checkpoint of ours names, and nothing else.
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
    """Reads which tensors the checkpoint in the folder `place` holds.

    Raises:
        ValueError: the file holds anything else.
        OSError: the file cannot be read.
    """
    with (place / DCP_METADATA).open("rb") as file:
        try:
            root = _InertUnpickler(file).load()
        except OSError:
            raise
        except Exception as error:
            # Unpickling damaged bytes may raise any exception.
            reason = " ".join(str(error).split())[:100]
            raise ValueError(f"{type(error).__name__}: {reason}") from error
    return _metadata(root)


class _StandIn:
    """Takes the place of an object of the pickle, and does nothing.

    Attributes:
        arguments: what the object would have been created with.
        state: what it would have been filled with.
    """

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "_StandIn":
        stand_in = object.__new__(cls)
        stand_in.arguments = arguments
        return stand_in

    def __setstate__(self, state: Any) -> None:
        self.state = state


# The unpickler in Python: the one in C allocates any memory that a file asks for.
class _InertUnpickler(pickle._Unpickler):
    """Unpickles stand-ins and types of tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint holds")

        # A new class each time: a pickle can set attributes of a class, and so change later ones.
        return type(name, (_StandIn,), {})


def _metadata(value: Any) -> Metadata:
    state = _state(value, "Metadata")
    tensors = _dictionary(state.get("state_dict_metadata"), _tensor)
    paths = _dictionary(state.get("planner_data"), _path)

    storage = _require(state.get("storage_data"), dict, "storage_data")
    stored = {_index(index, tensors): _storage_info(info) for index, info in storage.items()}

    version = state.get("version")
    if version is not None:
        version = _require(version, str, "version")
    return Metadata(
        state_dict_metadata=tensors,
        planner_data=paths,
        storage_data=stored,
        storage_meta=StorageMeta(),
        version=version,
    )


def _tensor(value: Any) -> STORAGE_TYPES:
    state = _state(value, "TensorStorageMetadata")
    size = _size(state.get("size"))
    chunks = [_chunk(chunk, len(size)) for chunk in _require(state.get("chunks"), list, "chunks")]
    return TensorStorageMetadata(_properties(state.get("properties")), size, chunks)


def _chunk(value: Any, dimensions: int) -> ChunkStorageMetadata:
    state = _state(value, "ChunkStorageMetadata")
    offsets = _size(state.get("offsets"))
    sizes = _size(state.get("sizes"))
    if not len(offsets) == len(sizes) == dimensions:
        raise ValueError("a part of a tensor has other dimensions than the tensor")
    return ChunkStorageMetadata(offsets, sizes)


def _properties(value: Any) -> TensorProperties:
    """Takes only the type; layout and memory are the same for all tensors of ours."""
    values = _require(_stand_in(value, "TensorProperties").state, tuple, "properties")
    if not values or not isinstance(values[0], torch.dtype):
        raise ValueError("a tensor has no type")
    return TensorProperties(dtype=values[0])


def _index(value: Any, tensors: Mapping[str, Any]) -> MetadataIndex:
    """The key of a stored piece: a tensor's name, and which piece of it."""
    state = _state(value, "MetadataIndex")
    name = state.get("fqn")
    if name not in tensors:
        raise ValueError(f"it says that a tensor '{name}' is stored, which does not exist")

    offset = state.get("offset")
    if offset is not None:
        offset = _size(offset)
    number = state.get("index")
    if number is not None:
        number = _natural(number)
    return MetadataIndex(str(name), offset, number)


def _storage_info(value: Any) -> _StorageInfo:
    """Where a piece is: a file of the checkpoint's own folder, an offset and a length."""
    state = _state(value, "_StorageInfo")
    # Only files in the checkpoint's own folder may be read.
    file = _require(state.get("relative_path"), str, "a file's name")
    if not file or file in (".", "..") or "/" in file or "\0" in file:
        raise ValueError(f"{file!r} is no file of the checkpoint")
    # PyTorch would pass the data through extensions of these names.
    if state.get("transform_descriptors"):
        raise ValueError("a tensor is stored in another form than ours")
    return _StorageInfo(file, _natural(state.get("offset")), _natural(state.get("length")))


def _path(value: Any) -> tuple[Any, ...]:
    """The keys that lead to a tensor in the nested state."""
    parts = _require(value, tuple, "planner_data")
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("planner_data is not a path of names")
    return parts


def _size(value: Any) -> torch.Size:
    (numbers,) = _stand_in(value, "Size").arguments or ((),)
    return torch.Size([_natural(number) for number in _require(numbers, tuple, "a size")])


def _natural(value: Any) -> int:
    # Not `isinstance`: True is an integer, too.
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _dictionary(value: Any, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """A dictionary from names to values that `convert` checks and converts."""
    entries = _require(value, dict, "names")
    return {_require(key, str, "a name"): convert(inner) for key, inner in entries.items()}


def _state(value: Any, name: str) -> dict[str, Any]:
    state: dict[str, Any] = _require(_stand_in(value, name).state, dict, name)
    return state


def _stand_in(value: Any, name: str) -> _StandIn:
    if not isinstance(value, _StandIn) or type(value).__name__ != name:
        raise ValueError(f"there is no {name} where one is expected")
    return value


def _require(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{what} is no {kind.__name__}")
    return value
