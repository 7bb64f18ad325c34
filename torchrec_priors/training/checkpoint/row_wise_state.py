"""Row-wise Adagrad's state, loaded from a checkpoint whose table was cut into other columns.

The state is one number a row, the sum over steps of the mean of the squared gradient over the columns. Of a table that
is cut into columns, every part has a copy of it (`embedding/whole_rows.py`): [parts * R], part after part. So what any
part is to have, the first part of the checkpoint has.

Shapes: R rows of the table.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from torchrec_priors.training.checkpoint.pieces import Pieces

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
    borrowed: list[tuple[State, str, DTensor, Pieces | None]] = []
    for parameter, states in state["optimizers"]["state"].items():
        for name, mine in states.items():
            saved = metadata.state_dict_metadata.get(f"optimizers.state.{parameter}.{name}")
            if (
                not isinstance(mine, DTensor)
                or not isinstance(saved, TensorStorageMetadata)
                or mine.dim() != 1
            ):
                continue
            rows = state["model"][parameter.partition(".")[2]].shape[
                0
            ]  # after the name of the optimizer
            if mine.shape != saved.size:
                log.info(
                    "%s: of %d parts there, of %d here",
                    name,
                    saved.size[0] // rows,
                    len(mine) // rows,
                )
                borrowed.append((states, name, mine, _asked_for(mine, rows, saved.size[0])))
    for states, name, _, asked in borrowed:
        states.pop(name)
        if asked is not None:
            states[name] = asked
    yield
    for states, name, mine, asked in borrowed:
        states[name] = mine
        if asked is not None:
            for (shard, _), loaded in zip(_shards(mine), asked.local_shards(), strict=True):
                shard.copy_(loaded)


def _asked_for(mine: DTensor, rows: int, size: int) -> Pieces | None:
    """For each of this rank's shards, its rows in the first part of the checkpoint's, which has so many numbers; None
    where this rank has no rows."""
    here = _shards(mine)
    pieces = [shard.new_empty(shard.shape, device="cpu") for shard, _ in here]
    return Pieces(pieces, [(first % rows,) for _, first in here], (size,)) if pieces else None


def _shards(tensor: DTensor) -> list[tuple[Tensor, int]]:
    """This rank's shards that are not empty, and where they begin."""
    local: Any = tensor.to_local()
    return [
        (shard, int(offset[0]))
        for shard, offset in zip(local.local_shards(), local.local_offsets(), strict=False)
        if len(shard)
    ]
