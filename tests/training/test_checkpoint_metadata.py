"""`.metadata` of a checkpoint is read, and nothing in it is run."""

import collections
import pathlib
import pickle
import pickletools
import random

import pytest
import torch
import torch.distributed.checkpoint as dcp
from payloads import a_pickle
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)

from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import join
from torchrec_priors.training.checkpoint.checkpoint import load
from torchrec_priors.training.checkpoint.metadata import read_metadata
from torchrec_priors.training.checkpoint.reader import Reader

STATE = {
    "model": {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor([1], dtype=torch.int64)},
    "step": torch.ones(()),
}


@pytest.fixture
def place(tmp_path):
    """A checkpoint as `torch.distributed.checkpoint` itself writes it."""
    with join() as ranks:
        dcp.save(STATE, checkpoint_id=tmp_path / "step-1", process_group=ranks.side)
    return tmp_path / "step-1"


def test_what_is_read_is_what_was_written(place):
    there, read = dcp.FileSystemReader(place).read_metadata(), read_metadata(place)
    for part in ("state_dict_metadata", "planner_data", "storage_data", "version"):
        assert getattr(read, part) == getattr(there, part)
    assert len(read.state_dict_metadata) == 3


def test_tensors_are_loaded_by_it(place):
    state = {"model": {"a": torch.zeros(2, 3)}, "step": torch.zeros(())}
    with join() as ranks:
        load(state, place, ranks)
    assert torch.equal(state["model"]["a"], STATE["model"]["a"])
    assert state["step"] == 1


def test_a_payload_is_not_run(place, tmp_path):
    mark = tmp_path / "ran"
    content = a_pickle(mark)
    pickle.loads(content)
    assert mark.exists(), "the payload works"
    mark.unlink()
    (place / ".metadata").write_bytes(content)
    with pytest.raises(
        UserError, match=r"cannot be loaded .*\.metadata: UnpicklingError: it names \S+open, which"
    ):
        Reader(place)
    assert not mark.exists()


class _Calls:
    """Its pickle calls `function`, and fills what comes of it."""

    def __init__(self, function, arguments, state=None):
        self.call = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"state_dict_metadata": {}},
        _Calls(pathlib.PosixPath, ("x",)),
        _Calls(torch.Size, ((1,),)),
        _Calls(collections.OrderedDict, ()),
        _Calls(torch.load, ("x",)),
        _Calls(Metadata, ({},), {"state_dict_metadata": {}}),
        _Calls(getattr, (Metadata, "__init__")),
    ],
    ids=[
        "a list",
        "a dictionary",
        "a path",
        "a size",
        "an ordered dictionary",
        "a load",
        "cut metadata",
        "getattr",
    ],
)
def test_pickles_of_anything_else_are_refused(said, tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(said))
    with pytest.raises(ValueError, match=r"."):
        read_metadata(tmp_path)


def _with(place, change):
    metadata = dcp.FileSystemReader(place).read_metadata()
    change(metadata)
    (place / ".metadata").write_bytes(pickle.dumps(metadata))


def _store(metadata, **changes):
    for index, info in metadata.storage_data.items():
        metadata.storage_data[index] = _StorageInfo(**{**vars(info), **changes})


def _entry(metadata, entry):
    metadata.state_dict_metadata["model.a"] = entry


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda metadata: _store(metadata, relative_path="../../elsewhere"), "not a file of the checkpoint"),
        (lambda metadata: _store(metadata, relative_path="/etc/passwd"), "not a file of the checkpoint"),
        (lambda metadata: _store(metadata, relative_path=".."), "not a file of the checkpoint"),
        (lambda metadata: _store(metadata, offset=-1), "not a size"),
        (lambda metadata: _store(metadata, length="9"), "not a size"),
        (lambda metadata: _store(metadata, transform_descriptors=["zstd"]), "another form"),
        (lambda metadata: _entry(metadata, BytesStorageMetadata()), "BytesStorageMetadata, which no checkpoint holds"),
        (lambda metadata: _entry(metadata, TensorStorageMetadata(None, torch.Size([2]), [])), "no TensorProperties"),
        (lambda metadata: metadata.state_dict_metadata.pop("model.a"), "lists data of a tensor 'model.a', which"),
        (lambda metadata: metadata.planner_data.update({"model.a": 3}), "planner_data is not a tuple"),
        (lambda metadata: setattr(metadata, "storage_data", None), "storage_data is not a dict"),
    ],
)  # fmt: skip
def test_every_value_is_looked_at(place, change, says):
    _with(place, change)
    with pytest.raises(ValueError, match=says):
        read_metadata(place)


def test_the_classes_of_the_pickle_cannot_be_changed(tmp_path):
    """BUILD can set attributes of what it is given, be it a class: no later reading would be safe."""
    code = (
        b"\x80\x04ctorch.distributed.checkpoint.metadata\nMetadata\n(N}X\x01\x00\x00\x00xK\x01s"
        + b"tb."
    )
    list(pickletools.genops(code))
    (tmp_path / ".metadata").write_bytes(code)
    with pytest.raises(ValueError, match=r"."):
        read_metadata(tmp_path)
    assert not hasattr(Metadata, "x")


def test_damaged_ones_are_refused_or_read(place):
    """No other error, whatever byte is another."""
    content, draw = (place / ".metadata").read_bytes(), random.Random(3)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] = draw.randrange(256)
        (place / ".metadata").write_bytes(damaged)
        try:
            read_metadata(place)
        except ValueError:
            refused += 1
    assert refused > 150
