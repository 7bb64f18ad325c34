"""Which row of another run's item table each row of a new one starts from.

It works for every kind of treatment of unseen items, in either run. An item's row starts from the
row that the item had there, its own or a shared one; shared rows start from the same shared rows. A
managed table starts with the items that the other run had rows for, the most frequent first if they
are too many; if both tables are managed in the same way, with all items that the other held.

Shapes: I items of a data set, C items that this rank holds, H shared rows.
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
from torchrec_priors.embedding.managed import (
    Blocks,
    ManagedRows,
    State,
    blocks_of,
    reset_rows,
    spread,
)
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_texts import id_texts
from torchrec_priors.training.build import Built
from torchrec_priors.training.run.recorded_data import TrainedOn

# From the end of a tensor's name in the other run's checkpoint to the tensor.
Load = Callable[[str], Tensor | None]


class OldRows:
    """The rows of the other run's table, by the items of its data set.

    Attributes:
        state: what its table holds, if it is managed; else None.
        rows: the rows of its items, if its table is not managed; else None.
        row_I: int64, the row of each item, its own or a shared one.
        admitted_I: bool, items with a row of their own.
    """

    def __init__(
        self, config: RunConfig, data: PreparedData, trained: TrainedOn, load: Load
    ) -> None:
        self.config = config.embedding
        self.data = data
        self.state: State | None = None
        self.rows: ItemRows | None = None

        if config.embedding.unseen == "managed":
            self.state = State.load(config.embedding, load)
            self.row_I = self.state.rows_of(np.arange(data.items))
            self.admitted_I = self.state.admitted(np.arange(data.items))
            return

        self.rows = ItemRows.of(config.embedding, trained.seen_I, data.items)
        # None means that each item has its own row, in their order.
        row_I = self.rows.row_I
        own_row_I = self.rows.own_row_I
        self.row_I = np.arange(data.items) if row_I is None else row_I
        self.admitted_I = np.ones(data.items, bool) if own_row_I is None else own_row_I

    def of(self, old_item: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Returns the rows of items; `NO_ROW` for an item without one.

        Args:
            old_item: their row ids in the other data set; -1 for an item that it lacks, which has a
                shared row, if there are any.
            item: their row ids in the new data set. They are the same if the other has grown to it,
                so the shared row is the one that the other run would use.
        """
        shared = np.full(len(item), NO_ROW)
        if self.rows is not None and len(self.rows.shared_H):
            shared = self.rows.shared_H[hashes(item, len(self.rows.shared_H))]
        return np.where(old_item >= 0, self.row_I[np.maximum(old_item, 0)], shared)


def carried_rows(built: Built, config: RunConfig, data: PreparedData, old: OldRows) -> np.ndarray:
    """Returns the other run's row for each row that this rank owns, and fills a managed table.

    int64; `NO_ROW` if there is none. Every rank must call it.
    """
    old_item_I = _old_items(old.data, data)
    rows = built.model.item_rows
    if isinstance(rows, ManagedRows):
        return _rows_of_managed(built, config, data, old, old_item_I)
    assert isinstance(rows, ItemRows)
    return _rows_of_items(built, rows, old, old_item_I)


def _old_items(old_data: PreparedData, data: PreparedData) -> np.ndarray:
    """Returns each item's row id in the other data set, matched by original id; -1 for none."""
    old_texts = _texts(old_data)
    index = pc.index_in(_texts(data), old_texts)
    return pc.fill_null(index, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _rows_of_items(
    built: Built, rows: ItemRows, old: OldRows, old_item_I: np.ndarray
) -> np.ndarray:
    own = built.own
    carried = np.full(len(own), NO_ROW, np.int64)

    # Rows that belong to one item.
    held = rows.held(own.first, own.last)
    item_C = held.item_C
    row_C = held.row_C
    if rows.own_row_I is not None:
        is_own_C = rows.own_row_I[held.item_C]
        item_C = held.item_C[is_own_C]
        row_C = held.row_C[is_own_C]
    carried[row_C - own.first] = old.of(old_item_I[item_C], item_C)

    # Shared rows: with the same number of them, an item's hash leads to the same one.
    if old.rows is not None and len(old.rows.shared_H) == len(rows.shared_H):
        is_own_H = (rows.shared_H >= own.first) & (rows.shared_H < own.last)
        carried[rows.shared_H[is_own_H] - own.first] = old.rows.shared_H[is_own_H]
    return carried


def _rows_of_managed(
    built: Built, config: RunConfig, data: PreparedData, old: OldRows, old_item_I: np.ndarray
) -> np.ndarray:
    own = built.own
    blocks = blocks_of(built.model.table)

    # The same blocks and the same row ids: the whole state is taken over, with its counters.
    if old.state is not None and _is_alike(blocks, old, old_item_I):
        old.state.give(blocks)
        return np.arange(own.first, own.last)

    wanted_I = (old_item_I >= 0) & old.admitted_I[np.maximum(old_item_I, 0)]
    _fill(built, config, data, wanted_I)

    held = blocks.held()
    carried = np.full(len(own), NO_ROW, np.int64)
    carried[held.row_C - own.first] = old.of(old_item_I[held.item_C], held.item_C)
    return carried


def _is_alike(blocks: Blocks, old: OldRows, old_item_I: np.ndarray) -> bool:
    """Whether both tables have the same blocks, and all items of the other the same row ids."""
    unchanged = np.arange(old.data.items)
    return blocks.fits(old.config) and np.array_equal(old_item_I[: old.data.items], unchanged)


def _fill(built: Built, config: RunConfig, data: PreparedData, wanted_I: np.ndarray) -> None:
    """Admits items; those with many training interactions first.

    Args:
        wanted_I: bool, the items to be admitted, as many as there are rows for.
    """
    table = built.model.table
    blocks = blocks_of(built.model.table)
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()

    item = np.flatnonzero(wanted_I)
    first, last = blocks.range_of_ids
    item = item[(spread(item) >= first) & (spread(item) < last)]

    # An item that is seen more often is kept rather than others, so each is shown to the table
    # according to the logarithm of its frequency.
    times = 1 + np.floor(np.log2(frequency[item] + 1)).astype(np.int64)
    device = built.shard.rows.device
    rows, owners = blocks.admit(torch.from_numpy(np.repeat(spread(item), times)).to(device))

    values = first_values(owners, config.model.dim, config.seed, config.table.init_std)
    local = torch.from_numpy(rows - built.shard.first)
    reset_rows(table, local.to(device), values.to(device))


def _texts(data: PreparedData) -> pa.Array:
    return id_texts(data.catalogue(["item_id"])["item_id"], f"items of '{data.folder}'")
