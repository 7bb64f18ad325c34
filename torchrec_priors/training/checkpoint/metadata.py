"""Reads the file `.metadata` of a checkpoint without running any code that the file names.

`torch.distributed.checkpoint` writes the file as a pickle. Ordinary unpickling may call any
function that the pickle names. Here, every name is replaced by an inert object, and names that do
not occur in this project's checkpoints are rejected. The metadata is then built from names, numbers
and sizes that were checked one by one.
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

# All names in the pickles of this project's checkpoints.
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
    """Reads the names, types, sizes and places of the tensors of the checkpoint in `place`.

    Raises:
        ValueError: the file contains anything else.
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
    """Replaces an object of the pickle. It only remembers values and does nothing else.

    Attributes:
        arguments: the arguments that the object would have been created with.
        state: the state that the object would have been filled with.
    """

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "_StandIn":
        stand_in = object.__new__(cls)
        stand_in.arguments = arguments
        return stand_in

    def __setstate__(self, state: Any) -> None:
        self.state = state


# The base class is the unpickler that is written in Python. The one in C would allocate as much
# memory as a damaged file asks for.
class _InertUnpickler(pickle._Unpickler):
    """Unpickles only stand-ins and the types of tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint holds")

        # Each object gets a new class. A pickle can set attributes of a class, and with a common
        # class it could change other objects.
        return type(name, (_StandIn,), {})


def _metadata(value: Any) -> Metadata:
    """Builds the metadata of the whole checkpoint from the root of the pickle."""
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
    """Builds the metadata of one tensor: its type, its size and its chunks."""
    state = _state(value, "TensorStorageMetadata")
    size = _size(state.get("size"))
    chunks = [_chunk(chunk, len(size)) for chunk in _require(state.get("chunks"), list, "chunks")]
    return TensorStorageMetadata(_properties(state.get("properties")), size, chunks)


def _chunk(value: Any, dimensions: int) -> ChunkStorageMetadata:
    """Builds the metadata of one chunk of a tensor: its position in the tensor, and its size."""
    state = _state(value, "ChunkStorageMetadata")
    offsets = _size(state.get("offsets"))
    sizes = _size(state.get("sizes"))
    if not len(offsets) == len(sizes) == dimensions:
        raise ValueError("a part of a tensor has other dimensions than the tensor")
    return ChunkStorageMetadata(offsets, sizes)


def _properties(value: Any) -> TensorProperties:
    """Builds the properties of a tensor. Only the type is read: the others never differ."""
    values = _require(_stand_in(value, "TensorProperties").state, tuple, "properties")
    if not values or not isinstance(values[0], torch.dtype):
        raise ValueError("a tensor has no type")
    return TensorProperties(dtype=values[0])


def _index(value: Any, tensors: Mapping[str, Any]) -> MetadataIndex:
    """Builds the key of a stored piece: a tensor's name, and the position of the piece in it."""
    state = _state(value, "MetadataIndex")
    name = state.get("fqn")
    if name not in tensors:
        raise ValueError(f"it lists data of a tensor '{name}', which does not exist")

    offset = state.get("offset")
    if offset is not None:
        offset = _size(offset)
    number = state.get("index")
    if number is not None:
        number = _natural(number)
    return MetadataIndex(str(name), offset, number)


def _storage_info(value: Any) -> _StorageInfo:
    """Builds the place where a piece is stored: a file, an offset and a length."""
    state = _state(value, "_StorageInfo")
    # Only files in the checkpoint's own folder may be read.
    file = _require(state.get("relative_path"), str, "a file's name")
    if not file or file in (".", "..") or "/" in file or "\0" in file:
        raise ValueError(f"{file!r} is not a file of the checkpoint")
    # PyTorch would pass the data through the extensions that are named here.
    if state.get("transform_descriptors"):
        raise ValueError("a tensor is stored in another form than ours")
    return _StorageInfo(file, _natural(state.get("offset")), _natural(state.get("length")))


def _path(value: Any) -> tuple[Any, ...]:
    """Reads the keys that lead to a tensor in the nested dictionaries of the state."""
    parts = _require(value, tuple, "planner_data")
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("planner_data is not a path of names")
    return parts


def _size(value: Any) -> torch.Size:
    """Builds a size from a tuple of natural numbers."""
    (numbers,) = _stand_in(value, "Size").arguments or ((),)
    return torch.Size([_natural(number) for number in _require(numbers, tuple, "a size")])


def _natural(value: Any) -> int:
    """Returns a value that is an integer of at least 0; otherwise raises ValueError."""
    # `isinstance` would accept True, because bool is a subclass of int.
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def _dictionary(value: Any, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """Builds a dictionary from names to values; `convert` checks and converts each value."""
    entries = _require(value, dict, "names")
    return {_require(key, str, "a name"): convert(inner) for key, inner in entries.items()}


def _state(value: Any, name: str) -> dict[str, Any]:
    """Returns the state of a stand-in, which must be a dictionary."""
    state: dict[str, Any] = _require(_stand_in(value, name).state, dict, name)
    return state


def _stand_in(value: Any, name: str) -> _StandIn:
    """Returns a value that is a stand-in for class `name`; otherwise raises ValueError."""
    if not isinstance(value, _StandIn) or type(value).__name__ != name:
        raise ValueError(f"there is no {name} where one is expected")
    return value


def _require(value: Any, kind: type, what: str) -> Any:
    """Returns a value that is of type `kind`; otherwise raises ValueError, which names `what`."""
    if not isinstance(value, kind):
        raise ValueError(f"{what} is not a {kind.__name__}")
    return value
