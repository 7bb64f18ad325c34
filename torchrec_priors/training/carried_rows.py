"""Decides which row of another run's item table each row of a new table is copied from.

Both runs may use any value of `embedding.unseen`:

- The row of an item is copied from the row that the item had in the other run. In that run, the
  item may have had a row of its own, or one that several items share.
- Shared rows are copied from the same shared rows of the other run.
- A managed table admits the items that had rows of their own in the other run. If there are more
  items than rows, the most frequent items are admitted.
- If both tables are managed and have the same blocks, the whole state of the table is copied.

Shapes: I items of a data set, C items that have one of this rank's rows, H shared rows.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from torchrec_priors.embedding.item_rows import NO_ROW, ItemRows, hashes
from torchrec_priors.embedding.item_table import first_values
from torchrec_priors.embedding.managed.blocks import Blocks
from torchrec_priors.embedding.managed.ids import spread
from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.managed.state import ManagedState
from torchrec_priors.embedding.managed.table import blocks_of, reset_rows
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_texts import id_texts
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.built import Built
from torchrec_priors.training.run.recorded_data import TrainedOn

# Loads a tensor of the other run's checkpoint; the argument is the end of its name.
Load = Callable[[str], Tensor | None]


class OldRows:
    """The rows of the items of the other run, in that run's item table.

    Attributes:
        config: the other run's section `embedding`.
        data: the other run's data set.
        state: the items in the other table if it is managed; otherwise None.
        rows: the map from items to rows if the other table is not managed; otherwise None.
        row_I: int64, the row of each item, which may be shared with other items.
        admitted_I: bool, whether each item has a row of its own.
    """

    def __init__(
        self, config: RunConfig, data: PreparedData, trained: TrainedOn, load: Load
    ) -> None:
        self.config = config.embedding
        self.data = data
        self.state: ManagedState | None = None
        self.rows: ItemRows | None = None

        if config.embedding.unseen == "managed":
            self.state = ManagedState.load(config.embedding, load)
            self.row_I = self.state.rows_of(np.arange(data.items))
            self.admitted_I = self.state.admitted(np.arange(data.items))
            return

        self.rows = ItemRows.of(config.embedding, trained.seen_I, data.items)
        # None means that item i has row i.
        row_I = self.rows.row_I
        own_row_I = self.rows.own_row_I
        self.row_I = np.arange(data.items) if row_I is None else row_I
        self.admitted_I = np.ones(data.items, bool) if own_row_I is None else own_row_I

    def rows_of(self, old_item: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Returns the row of each item in the other table; `NO_ROW` if it has none.

        An item that the other data set lacks gets a shared row of the other table, if there are
        shared rows. The row is chosen by the hash of the item's row id in the new data set. If the
        new data set has grown from the other one, the other run would choose the same row.

        Args:
            old_item: the items' row ids in the other data set; -1 for an item that it lacks.
            item: the items' row ids in the new data set.
        """
        shared = np.full(len(item), NO_ROW)
        if self.rows is not None and len(self.rows.shared_H):
            shared = self.rows.shared_H[hashes(item, len(self.rows.shared_H))]
        return np.where(old_item >= 0, self.row_I[np.maximum(old_item, 0)], shared)


def carried_rows(built: Built, config: RunConfig, data: PreparedData, old: OldRows) -> np.ndarray:
    """Returns the row of the other table that each row of this rank is copied from, as int64.

    `NO_ROW` stands for a row that keeps its initial values. If the new table is managed, this also
    admits items to it. Every rank must call it.
    """
    old_item_I = _old_items(old.data, data)
    rows = built.model.item_rows
    if isinstance(rows, ManagedRows):
        return _rows_of_managed(built, config, data, old, old_item_I)
    assert isinstance(rows, ItemRows)
    return _rows_of_items(built, rows, old, old_item_I)


def _old_items(old_data: PreparedData, data: PreparedData) -> np.ndarray:
    """Returns each item's row id in the other data set, matched by original id.

    It is -1 for an item that the other data set lacks.
    """
    old_ids = _original_ids(old_data)
    index = pc.index_in(_original_ids(data), old_ids)
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
    carried[row_C - own.first] = old.rows_of(old_item_I[item_C], item_C)

    # Shared rows. If both runs have equally many, an item's hash leads to the same row in both.
    if old.rows is not None and len(old.rows.shared_H) == len(rows.shared_H):
        is_own_H = (rows.shared_H >= own.first) & (rows.shared_H < own.last)
        carried[rows.shared_H[is_own_H] - own.first] = old.rows.shared_H[is_own_H]
    return carried


def _rows_of_managed(
    built: Built, config: RunConfig, data: PreparedData, old: OldRows, old_item_I: np.ndarray
) -> np.ndarray:
    own = built.own
    blocks = blocks_of(built.model.table)

    # If blocks and row ids are the same, the whole state is copied, including its counters.
    if old.state is not None and _has_same_blocks_and_ids(blocks, old, old_item_I):
        old.state.give(blocks)
        return np.arange(own.first, own.last)

    wanted_I = (old_item_I >= 0) & old.admitted_I[np.maximum(old_item_I, 0)]
    _admit(built, config, data, wanted_I)

    held = blocks.held()
    carried = np.full(len(own), NO_ROW, np.int64)
    carried[held.row_C - own.first] = old.rows_of(old_item_I[held.item_C], held.item_C)
    return carried


def _has_same_blocks_and_ids(blocks: Blocks, old: OldRows, old_item_I: np.ndarray) -> bool:
    """Returns whether both tables have the same blocks and the old items keep their row ids."""
    unchanged = np.arange(old.data.items)
    return blocks.fits(old.config) and np.array_equal(old_item_I[: old.data.items], unchanged)


def _admit(built: Built, config: RunConfig, data: PreparedData, wanted_I: np.ndarray) -> None:
    """Admits items to a managed table, as many as there are rows for.

    Args:
        wanted_I: bool, whether each item is to be admitted. If there are too many, those with the
            most training interactions are admitted.
    """
    table = built.model.table
    blocks = blocks_of(built.model.table)
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()

    item = np.flatnonzero(wanted_I)
    first, last = blocks.range_of_ids
    item = item[(spread(item) >= first) & (spread(item) < last)]

    # The table keeps the items that it is given most often. Each item is given about
    # log2(frequency) times: this preserves the order of the frequencies, and takes much less memory
    # than the frequency itself would.
    times = 1 + np.floor(np.log2(frequency[item] + 1)).astype(np.int64)
    device = built.shard.rows.device
    rows, owners = blocks.admit(torch.from_numpy(np.repeat(spread(item), times)).to(device))

    values = first_values(owners, config.model.dim, config.seed, config.table.init_std)
    local = torch.from_numpy(rows - built.shard.first)
    reset_rows(table, local.to(device), values.to(device))


def _original_ids(data: PreparedData) -> pa.Array:
    return id_texts(data.catalogue(["item_id"])["item_id"], f"items of '{data.folder}'")
