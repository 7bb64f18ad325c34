"""Loads row-wise Adagrad's state if the checkpoint's table was divided differently by columns.

The state has one number for each row: the mean of the squared gradient over the columns, summed
over the steps. If a table is divided by columns, each part has a copy of the state
(`embedding/whole_rows.py`). The state then has the shape [parts * R], with one copy after another.
All copies are equal, so each part can load its state from the checkpoint's first copy.

Shapes: R rows of the table.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from torchrec_priors.training.checkpoint.keys import MODEL, OPTIMIZERS, State, key_in_optimizers
from torchrec_priors.training.checkpoint.pieces import Pieces

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Borrowed:
    """A tensor of the state that has another shape in the checkpoint.

    Attributes:
        states: the dictionary that contains the tensor.
        name: the tensor's key in that dictionary.
        value: the tensor in this run's shape.
        saved: the tensor in the checkpoint's shape; None if this rank has no rows.
    """

    states: State
    name: str
    value: DTensor
    saved: Pieces | None


@contextmanager
def in_saved_form(state: State, metadata: Metadata) -> Iterator[None]:
    """Gives tensors of `state` the shapes that they have in a checkpoint, so that it can be loaded.

    Load the checkpoint within the block. After it, `state` has the run's own tensors again, filled
    with the loaded values.

    Args:
        state: the state of model and optimizers, as `Checkpoints` loads it.
        metadata: the metadata of the checkpoint.
    """
    borrowed = _other_forms(state, metadata)
    for entry in borrowed:
        # A rank without rows has nothing to load, so its state must not contain the key.
        entry.states.pop(entry.name)
        if entry.saved is not None:
            entry.states[entry.name] = entry.saved

    yield

    # The run's own tensors go back into the state: the optimizer reads them through it.
    for entry in borrowed:
        entry.states[entry.name] = entry.value
        if entry.saved is not None:
            loaded_shards = entry.saved.local_shards()
            for (shard, _), loaded in zip(_shards(entry.value), loaded_shards, strict=True):
                shard.copy_(loaded)


def _other_forms(state: State, metadata: Metadata) -> list[_Borrowed]:
    """Finds the tensors that have another shape in the checkpoint."""
    borrowed = []
    for parameter, states in state[OPTIMIZERS]["state"].items():
        for name, value in states.items():
            saved = metadata.state_dict_metadata.get(key_in_optimizers(parameter, name))
            if not isinstance(value, DTensor) or not isinstance(saved, TensorStorageMetadata):
                continue
            # PyTorch itself can load a state that has a number for each element, however the table
            # was divided.
            if value.dim() != 1 or value.shape == saved.size:
                continue

            # The parameter's name follows the name of the optimizer.
            rows = state[MODEL][parameter.partition(".")[2]].shape[0]
            log.info(
                "%s: %d parts in the checkpoint, %d in this run",
                name,
                saved.size[0] // rows,
                len(value) // rows,
            )
            pieces = _pieces_to_load(value, rows, saved.size[0])
            borrowed.append(_Borrowed(states, name, value, pieces))
    return borrowed


def _pieces_to_load(value: DTensor, rows: int, size: int) -> Pieces | None:
    """Returns empty pieces for the rows of this rank's shards; None if this rank has no rows.

    Args:
        value: the state in this run's shape.
        rows: the number of rows of the table.
        size: the length of the state in the checkpoint. Only its first copy is read.
    """
    shards = _shards(value)
    if not shards:
        return None

    pieces = [shard.new_empty(shard.shape, device="cpu") for shard, _ in shards]
    return Pieces(pieces, [(first % rows,) for _, first in shards], (size,))


def _shards(tensor: DTensor) -> list[tuple[Tensor, int]]:
    """Returns this rank's shards that are not empty, each with the index of its first element."""
    local: Any = tensor.to_local()
    return [
        (shard, int(offset[0]))
        for shard, offset in zip(local.local_shards(), local.local_offsets(), strict=False)
        if len(shard)
    ]
