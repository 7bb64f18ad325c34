"""Loads row-wise Adagrad's state from a checkpoint whose table was cut into other columns.

The state is one number a row: the sum over the steps of the mean of the squared gradient over the
columns. If a table is cut into columns, every part has a copy of it (`embedding/whole_rows.py`):
[parts * R], part after part. So every part can take its state from the checkpoint's first part.

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
    """A value of the state that is loaded in the checkpoint's form.

    Attributes:
        states: the dictionary that holds the value.
        name: its key there.
        value: the value in this run's form.
        saved: the value in the checkpoint's form; None if this rank has no rows.
    """

    states: State
    name: str
    value: DTensor
    saved: Pieces | None


@contextmanager
def in_saved_form(state: State, metadata: Metadata) -> Iterator[None]:
    """Replaces values that the checkpoint has in another form by that form, to be loaded.

    Within the block these values are in `state` in the checkpoint's form. After it they are back
    in their own form, filled with what was loaded.

    Args:
        state: model and optimizers, as `Checkpoints` loads them.
        metadata: that of the checkpoint.
    """
    borrowed = _other_forms(state, metadata)
    for entry in borrowed:
        # A rank without rows has nothing to load; the key must not be in its state then.
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
    """Finds the values that the checkpoint has in another form."""
    borrowed = []
    for parameter, states in state[OPTIMIZERS]["state"].items():
        for name, value in states.items():
            saved = metadata.state_dict_metadata.get(key_in_optimizers(parameter, name))
            if not isinstance(value, DTensor) or not isinstance(saved, TensorStorageMetadata):
                continue
            # A state with a number for each element loads into any cut as it is.
            if value.dim() != 1 or value.shape == saved.size:
                continue

            # The parameter's name follows the name of the optimizer.
            rows = state[MODEL][parameter.partition(".")[2]].shape[0]
            log.info(
                "%s: of %d parts in the checkpoint, of %d in this run",
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
        rows: the number of rows of the table.
        size: the length of the checkpoint's state, of which only the first part is read.
    """
    shards = _shards(value)
    if not shards:
        return None

    pieces = [shard.new_empty(shard.shape, device="cpu") for shard, _ in shards]
    return Pieces(pieces, [(first % rows,) for _, first in shards], (size,))


def _shards(tensor: DTensor) -> list[tuple[Tensor, int]]:
    """Returns this rank's shards that are not empty, and where they begin."""
    local: Any = tensor.to_local()
    return [
        (shard, int(offset[0]))
        for shard, offset in zip(local.local_shards(), local.local_offsets(), strict=False)
        if len(shard)
    ]
