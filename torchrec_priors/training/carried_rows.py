"""Which row of another run's item table each row of a new one starts from, whatever becomes of unseen items in either.

An item's row starts from the row that the item had there, its own or one it shared; shared rows start from the same
shared rows. A managed table starts with the items that the other run had rows for, the most frequent first where they
are too many; where both are managed alike, with all that the other held.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from torchrec_priors.config import RunConfig
from torchrec_priors.embedding.item_rows import NO_ROW, ItemRows, hashes
from torchrec_priors.embedding.item_table import first_values
from torchrec_priors.embedding.managed import ManagedRows, State, blocks_of, reset_rows, spread
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_texts import id_texts
from torchrec_priors.training.build import Built
from torchrec_priors.training.run.folder import TrainedOn

Load = Callable[
    [str], Tensor | None
]  # the end of a tensor's name in the other run's checkpoint -> the tensor


class OldRows:
    """Rows of the other run's table, by its data set's items."""

    def __init__(
        self, config: RunConfig, data: PreparedData, trained: TrainedOn, load: Load
    ) -> None:
        self.config = config.embedding
        self.data = data
        self.state = (
            State.load(config.embedding, load) if config.embedding.unseen == "managed" else None
        )
        if self.state is not None:
            self.row_I = self.state.rows_of(np.arange(data.items))
            self.admitted_I = self.state.admitted(np.arange(data.items))
        else:
            rows = ItemRows.of(config.embedding, trained.seen_I, data.items)
            self.row_I = np.arange(data.items) if rows.row_I is None else rows.row_I
            self.admitted_I = (
                np.ones(data.items, bool) if rows.own_row_I is None else rows.own_row_I
            )
        self.rows = rows if self.state is None else None

    def of(self, place: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Rows of items, `NO_ROW` for none.

        Args:
            place: their row ids in the other data set; -1 where it lacks them: they have shared rows, where there are.
            item: their row ids in the new one, which are the same where the other has grown to it.
        """
        late = np.full(len(item), NO_ROW)
        if self.rows is not None and len(self.rows.shared_H):
            late = self.rows.shared_H[hashes(item, len(self.rows.shared_H))]
        return np.where(place >= 0, self.row_I[np.maximum(place, 0)], late)


def carried_rows(built: Built, config: RunConfig, data: PreparedData, old: OldRows) -> np.ndarray:
    """int64, for each row that this rank answers for the other run's row, `NO_ROW` where there is none. A managed table
    is filled.

    Every rank must call it.
    """
    own = built.own
    rows = built.model.item_rows
    texts = [_texts(of) for of in (old.data, data)]
    place_I = (
        pc.fill_null(pc.index_in(texts[1], texts[0]), -1)
        .to_numpy(zero_copy_only=False)
        .astype(np.int64)
    )
    found = np.full(len(own), NO_ROW, np.int64)
    if isinstance(rows, ManagedRows):
        blocks = blocks_of(built.model.table)
        alike = (
            old.state is not None
            and blocks.fits(old.config)
            and (place_I[: old.data.items] >= 0).all()
        )
        if (
            alike
            and old.state is not None
            and np.array_equal(place_I[: old.data.items], np.arange(old.data.items))
        ):
            old.state.give(blocks)
            return np.arange(own.first, own.last)
        _fill(built, config, data, (place_I >= 0) & old.admitted_I[np.maximum(place_I, 0)])
        held = blocks.held()
        found[held.row_C - own.first] = old.of(place_I[held.item_C], held.item_C)
        return found
    assert isinstance(rows, ItemRows)
    held = rows.held(own.first, own.last)
    alone = held.row_C if rows.own_row_I is None else held.row_C[rows.own_row_I[held.item_C]]
    item = held.item_C if rows.own_row_I is None else held.item_C[rows.own_row_I[held.item_C]]
    found[alone - own.first] = old.of(place_I[item], item)
    if old.rows is not None and len(old.rows.shared_H) == len(rows.shared_H):
        here = (rows.shared_H >= own.first) & (rows.shared_H < own.last)
        found[rows.shared_H[here] - own.first] = old.rows.shared_H[here]
    return found


def _fill(built: Built, config: RunConfig, data: PreparedData, wanted_I: np.ndarray) -> None:
    """Admits items; those of many training interactions first."""
    table = built.model.table
    blocks = blocks_of(built.model.table)
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
    item = np.flatnonzero(wanted_I)
    first, last = blocks.range_of_ids
    item = item[(spread(item) >= first) & (spread(item) < last)]
    times = 1 + np.floor(np.log2(frequency[item] + 1)).astype(np.int64)
    rows, owners = blocks.admit(
        torch.from_numpy(np.repeat(spread(item), times)).to(built.shard.rows.device)
    )
    values = first_values(owners, config.model.dim, config.seed, config.table.init_std)
    local = torch.from_numpy(rows - built.shard.first)
    reset_rows(table, local.to(built.shard.rows.device), values.to(built.shard.rows.device))


def _texts(data: PreparedData) -> pa.Array:
    return id_texts(data.catalogue(["item_id"])["item_id"], f"items of '{data.folder}'")
