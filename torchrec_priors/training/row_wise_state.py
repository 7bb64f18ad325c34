"""Row-wise Adagrad's state, loaded from a checkpoint whose table was cut into other columns.

The state is one number a row, the sum over steps of the mean of the squared gradient over the columns. Of a table that
is cut into columns, every part has numbers of its own, from its columns alone: [parts * R], part after part.

    fewer parts  the mean over the columns of the numbers of their parts: exactly the whole row's own number
    more parts   every part begins with the number of the whole row; what its own would have been is nowhere kept

Shapes: R rows of the table.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from torchrec_priors.training.pieces import Pieces

log = logging.getLogger(__name__)

State = dict[str, Any]


@contextmanager
def in_saved_form(state: State, metadata: Metadata) -> Iterator[None]:
    """Within the block, states that the checkpoint has in another form stand in `state` in that form, to be loaded;
    after it they are as they were, filled by what was loaded.

    Args:
        state: `model` and `optimizers`, as `Checkpoints` loads them.
        metadata: of the checkpoint.
    """
    borrowed: list[tuple[State, str, DTensor, Pieces | None, Tensor]] = []
    for parameter, states in state["optimizers"]["state"].items():
        for name, mine in states.items():
            saved = metadata.state_dict_metadata.get(f"optimizers.state.{parameter}.{name}")
            if not isinstance(mine, DTensor) or not isinstance(saved, TensorStorageMetadata) or mine.dim() != 1:
                continue
            table = parameter.partition(".")[2]  # after the name of the optimizer
            rows = state["model"][table].shape[0]
            if mine.shape != saved.size:
                width_P = _widths(metadata, f"model.{table}")
                log.info("%s: of %d parts there, of %d here: converted", name, len(width_P), len(mine) // rows)
                borrowed.append((states, name, mine, _asked_for(mine, rows, len(width_P)), width_P))
    for states, name, _, asked, _ in borrowed:
        states.pop(name)
        if asked is not None:
            states[name] = asked
    yield
    for states, name, mine, asked, width_P in borrowed:
        states[name] = mine
        if asked is not None:
            _fill(mine, asked, width_P)


def _widths(metadata: Metadata, table: str) -> Tensor:
    """[P]: columns of each part of a checkpoint's table."""
    saved = metadata.state_dict_metadata[table]
    assert isinstance(saved, TensorStorageMetadata), "a table is a tensor"
    parts = {chunk.offsets[1]: chunk.sizes[1] for chunk in saved.chunks}
    return torch.tensor([parts[first] for first in sorted(parts)])


def _asked_for(mine: DTensor, rows: int, parts_there: int) -> Pieces | None:
    """For each of this rank's shards, its rows in every part of the checkpoint's columns; None where it has no rows."""
    pieces, offsets = [], []
    for shard, first in _shards(mine):
        for part in range(parts_there):
            pieces.append(torch.empty_like(shard, device="cpu"))
            offsets.append((part * rows + first % rows,))
    return Pieces(pieces, offsets, (parts_there * rows,)) if pieces else None


def _fill(mine: DTensor, asked: Pieces, width_P: Tensor) -> None:
    found, parts = asked.local_shards(), len(width_P)
    for number, (shard, _) in enumerate(_shards(mine)):
        here_PR = torch.stack(found[number * parts : (number + 1) * parts])
        shard.copy_((width_P[:, None] * here_PR).sum(0) / width_P.sum())


def _shards(tensor: DTensor) -> list[tuple[Tensor, int]]:
    """This rank's shards that are not empty, and where they begin."""
    local: Any = tensor.to_local()
    return [
        (shard, int(offset[0]))
        for shard, offset in zip(local.local_shards(), local.local_offsets(), strict=False)
        if len(shard)
    ]
