"""The item table with TorchRec's managed collisions: few rows for many items.

During training, items are admitted, which gives each of them a row of the table, and later evicted.
TorchRec's `MCHManagedCollisionModule` keeps ids and counters, and decides which items to evict.
`Blocks` combines several of these modules so that no result depends on the number of ranks:

- `spread` turns the row ids of items into ids between 0 and 2^40.
- These ids are cut into a fixed number of blocks, and the table's rows into the same number. The
  ids of a block only get rows of the block with the same number.
- The last row of a block is shared by all ids of the block that are not admitted.
- Each rank has whole blocks.

Shapes: I items of the data set, R rows of the table, C admitted items of this rank, X items of
extended sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    ManagedCollisionCollection,
    ManagedCollisionModule,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_priors.embedding.item_rows import Held
from torchrec_priors.embedding.item_table import item_table
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.table import TABLE

_RANGE = 1 << 40  # ids are in [0, _RANGE)
_FACTOR = 0x9E3779B97F4A7C15 % _RANGE  # odd: multiplying by it is a permutation of the range
_INVERSE_FACTOR = pow(_FACTOR, -1, _RANGE)
_FREE = torch.iinfo(torch.int64).max  # TorchRec's id for a row that no item has
_POLICIES = {
    "lfu": LFU_EvictionPolicy,
    "lru": LRU_EvictionPolicy,
    "distance_lfu": DistanceLFU_EvictionPolicy,
}
_STATE = ("_mch_sorted_raw_ids", "_mch_remapped_ids_mapping")  # TorchRec's buffers: ids, their rows

Features = dict[str, JaggedTensor]


def spread(item: np.ndarray) -> np.ndarray:
    """Returns a different id in [0, 2^40) for every row id, int64.

    Consecutive row ids get ids that are far apart, so that they are in different blocks.

    >>> unspread(spread(np.array([0, 1, 2_000_000_000]))).tolist()
    [0, 1, 2000000000]
    """
    return _times(item, _FACTOR)


def unspread(raw: np.ndarray) -> np.ndarray:
    """Returns the row ids from which `spread` computed these ids."""
    return _times(raw, _INVERSE_FACTOR)


def managed_table(config: UnseenConfig, dim: int) -> ManagedCollisionEmbeddingCollection:
    """Returns a table of `config.rows` rows on the meta device, with its map from ids to rows."""
    table = item_table(config.rows, dim)
    blocks = Blocks(config, (0, config.rows), [0, config.rows], torch.device("meta"))
    collisions = ManagedCollisionCollection({TABLE: blocks}, table.embedding_configs())
    return ManagedCollisionEmbeddingCollection(table, collisions, return_remapped_features=True)


class Blocks(ManagedCollisionModule):
    """The blocks of a rank as one module. Each block has one of TorchRec's modules.

    Lookups change nothing. Between steps, `admit` receives the ids that training has seen. TorchRec
    would admit and evict during a lookup. But then sampled negatives would count as seen items, and
    rows would get new items while gradients of the same step still belong to the old ones.
    """

    def __init__(
        self,
        config: UnseenConfig,
        rows: tuple[int, int],
        output_segments: list[int],
        device: torch.device,
    ) -> None:
        """
        Args:
            config: the section `embedding` of the configuration.
            rows: [first, last) of this rank's rows of the table, which form whole blocks.
            output_segments: bounds of the rows of all ranks.
            device: device of the buffers.
        """
        super().__init__(device=device, output_segments=output_segments)
        self.config = config
        self.first = rows[0]
        self.size = config.rows // config.blocks
        self._segments = self._output_segments_tensor.clone()

        # With one module of TorchRec for each block, items of a block only evict each other.
        policy = _POLICIES[config.eviction]()
        self.parts = [
            MCHManagedCollisionModule(
                zch_size=self.size,
                device=device,
                eviction_policy=policy,
                eviction_interval=1,  # counted in calls of `admit`
                input_hash_size=_RANGE,
                output_global_offset=start,
            )
            for start in range(*rows, self.size)
        ]

        # The buffers of all parts become views of one tensor, which is sharded like the table.
        names = [*_STATE, *(f"_mch_{info.metadata_name}" for info in policy.metadata_info)]
        for name in names:
            # TorchRec also has the counters in a dictionary, which must contain the same tensors.
            whole = torch.cat([part.get_buffer(name) for part in self.parts])
            self.register_buffer(name, whole)
            for part, view in zip(self.parts, whole.split(self.size), strict=True):
                setattr(part, name, view)
                if name not in _STATE:
                    part._mch_metadata[name.removeprefix("_mch_")] = view

    _mch_sorted_raw_ids: Tensor
    _mch_remapped_ids_mapping: Tensor

    def admit(self, raw_ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Counts the ids that were seen since the last call, and then admits and evicts items.

        Args:
            raw_ids: the ids that were seen and are in this rank's blocks, in any order. An id that
                was seen several times is repeated.

        Returns:
            The rows of the table that now have another item, and the row ids of these items.
        """
        block = raw_ids // self._ids_per_block - self.first // self.size
        calls = int(self._current_iter_tensor)

        evicted_rows = []
        for number, part in enumerate(self.parts):
            # TorchRec's module evicts one interval after its last eviction. With these numbers,
            # that is in this call.
            part._current_iter = part._last_eviction_iter = calls
            part._input_history_buffer_size = -1  # `profile` makes a buffer for just these ids
            part.train().profile({TABLE: _jagged(raw_ids[block == number])})
            evicted = part.evict()
            assert evicted is not None
            evicted_rows.append(evicted)
        self._current_iter_tensor += 1

        # All these rows have new items now.
        row = torch.cat(evicted_rows).cpu().numpy()
        held_row, held_item = self._admitted()
        index = np.searchsorted(held_row, row)
        return row, held_item[index]

    def fits(self, other: UnseenConfig) -> bool:
        """Returns whether a table with other settings has equal blocks, with the same counters."""
        return all(
            getattr(other, name) == getattr(self.config, name)
            for name in ("rows", "blocks", "eviction")
        )

    @property
    def range_of_ids(self) -> tuple[int, int]:
        """The ids [first, last) of this rank's blocks."""
        # The last block of ids may reach beyond the range, where there are no ids.
        first = self.first // self.size * self._ids_per_block
        return first, first + len(self.parts) * self._ids_per_block

    def held(self) -> Held:
        """Returns the admitted items of this rank's blocks, and their rows."""
        row, item = self._admitted()
        order = np.argsort(item)
        return Held(item[order], row[order])

    def _admitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of all admitted items, ascending, and the items."""
        raw = self._mch_sorted_raw_ids.cpu().numpy()
        row = self._mch_remapped_ids_mapping.cpu().numpy()
        admitted = raw != _FREE
        order = np.argsort(row[admitted])
        return row[admitted][order], unspread(raw[admitted][order])

    @property
    def _ids_per_block(self) -> int:
        """The number of ids in a block."""
        return -(-_RANGE // self.config.blocks)

    # The methods below implement the interface of TorchRec's managed collision modules.

    def preprocess(self, features: Features) -> Features:
        """Returns the ids unchanged: `spread` has already prepared them."""
        return features

    def profile(self, features: Features) -> Features:
        """Counts nothing inside a lookup: see `admit`."""
        return features

    def remap(
        self,
        features: Features,
        mutate_miss_lengths: bool = True,
        write_weights: Tensor | None = None,
    ) -> Features:
        """Returns the rows of ids; ids that are not admitted get the shared row of their block."""
        return {name: self._remapped(feature) for name, feature in features.items()}

    def _remapped(self, feature: JaggedTensor) -> JaggedTensor:
        """Returns the rows of one feature's ids."""
        # The block of an id follows from the id, so each part looks up only the ids of its block.
        raw = feature.values()
        block = raw // self._ids_per_block - self.first // self.size
        rows = torch.empty_like(raw)
        for number, part in enumerate(self.parts):
            index = torch.nonzero(block == number).squeeze(1)
            rows[index] = part.remap({TABLE: _jagged(raw[index])})[TABLE].values()
        return JaggedTensor(
            values=rows, lengths=feature.lengths(), weights=feature.weights_or_none()
        )

    def forward(self, features: Features, mutate_miss_lengths: bool = True) -> Features:
        """Returns the rows of ids."""
        return self.remap(features)

    def evict(self) -> None:
        """Does nothing inside a lookup: see `admit`."""

    def output_size(self) -> int:
        """Returns the number of this rank's rows."""
        return len(self._mch_sorted_raw_ids)

    def input_size(self) -> int:
        """Returns the size of the range of ids."""
        return _RANGE

    def buckets(self) -> int:
        """Returns the number of blocks of the whole table."""
        return self.config.blocks

    def open_slots(self) -> Tensor:
        """Returns how many rows of this rank can still get an item without an eviction."""
        # The last row of each block has no item, but never gets one either.
        return (self._mch_sorted_raw_ids == _FREE).sum() - len(self.parts)

    def validate_state(self) -> None:
        """Restores the bounds of the ranks' rows after a checkpoint is loaded.

        The checkpoint has the bounds of the ranks that wrote it.
        """
        self._output_segments_tensor.copy_(self._segments)

    def rebuild_with_output_id_range(
        self,
        output_id_range: tuple[int, int],
        output_segments: list[int],
        device: torch.device | None = None,
    ) -> "Blocks":
        """Returns the blocks for the rows of one rank. TorchRec calls it when it shards a table."""
        return Blocks(self.config, output_id_range, output_segments, device or self.device)


def blocks_of(table: Any) -> Blocks:
    """Returns the blocks of this rank from a sharded table."""
    blocks = table._managed_collision_collection._managed_collision_modules[TABLE]
    assert isinstance(blocks, Blocks)
    return blocks


def to_owners(table: Any, raw_ids: Tensor) -> Tensor:
    """Sends ids to the ranks that have their blocks. Every rank must call it.

    Args:
        table: the sharded table.
        raw_ids: ids that this rank has seen.

    Returns:
        The ids of this rank's blocks that any rank has seen.
    """
    collisions = table._managed_collision_collection
    ids = KeyedJaggedTensor(
        keys=[TABLE], values=raw_ids, lengths=torch.tensor([len(raw_ids)], device=raw_ids.device)
    )
    # This is the exchange of a lookup: first the lengths are sent, then the ids.
    values: Tensor = (
        collisions.input_dist(collisions.create_context(), ids).wait().wait()[0].values()
    )
    return values


def reset_rows(table: Any, rows: Tensor, values: Tensor) -> None:
    """Writes new values to rows of this rank, and zeros to the optimizer state of these rows.

    FBGEMM's function for this, `reset_embedding_weight_momentum`, does not exist on CPUs.

    Args:
        table: the sharded table.
        rows: rows, counted from the first row of this rank.
        values: their new values.
    """
    # The kernel has only this table, so its weights and states are at index 0.
    kernel, _ = table._table_to_tbe_and_index[TABLE]
    with torch.no_grad():
        kernel.split_embedding_weights()[0][rows] = values
        for state in kernel.get_optimizer_state()[0].values():
            state[rows] = 0.0


@dataclass(frozen=True)
class State:
    """Which items have which rows in a whole managed table, from a checkpoint.

    Attributes:
        config: settings of the table.
        buffers: buffers of `Blocks` by name, each for the rows of all ranks.
    """

    config: UnseenConfig
    buffers: dict[str, Tensor]

    @classmethod
    def load(cls, config: UnseenConfig, load: Callable[[str], Tensor | None]) -> "State":
        """Reads the buffers of a checkpoint.

        Args:
            config: settings of the table.
            load: function that returns the whole tensor whose name has a given ending; None if the
                checkpoint has no such tensor.
        """
        # Some of these counters exist only with some eviction policies.
        names = (*_STATE, "_current_iter_tensor", "_mch_counts", "_mch_last_access_iter")
        tensors = {name: load(f".{TABLE}.{name}") for name in names}
        buffers = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return cls(config, buffers)

    def rows_of(self, item: np.ndarray) -> np.ndarray:
        """Returns the row of each item: its own row, or the shared row of its block."""
        # Items that are not admitted share the last row of their block.
        index, admitted = self._find(item)
        block = spread(item) // -(-_RANGE // self.config.blocks)
        size = self.config.rows // self.config.blocks
        rows: np.ndarray = np.where(admitted, self._rows[index], (block + 1) * size - 1)
        return rows

    def admitted(self, item: np.ndarray) -> np.ndarray:
        """Returns bool, whether each item has its own row."""
        return self._find(item)[1]

    def give(self, blocks: "Blocks") -> None:
        """Copies the buffers to the blocks of a rank. The table must have the same settings."""
        for name, whole in self.buffers.items():
            values = whole
            if name != "_current_iter_tensor":  # which is a single number, the same on all ranks
                values = whole[blocks.first : blocks.first + blocks.output_size()]
            blocks.get_buffer(name).copy_(values)

    def _find(self, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the index of each item's id in the sorted ids, and whether the id is there."""
        raw = spread(item)
        index = np.minimum(np.searchsorted(self._raw, raw), len(self._raw) - 1)
        return index, self._raw[index] == raw

    @cached_property
    def _order(self) -> np.ndarray:
        """The order that sorts the ids of all blocks together."""
        # Ids are sorted within each block, where free rows come last, but not over all blocks.
        return np.argsort(self.buffers["_mch_sorted_raw_ids"].numpy(), kind="stable")

    @cached_property
    def _raw(self) -> np.ndarray:
        """The ids of all rows, sorted."""
        return self.buffers["_mch_sorted_raw_ids"].numpy()[self._order]

    @cached_property
    def _rows(self) -> np.ndarray:
        """The rows of the sorted ids."""
        return self.buffers["_mch_remapped_ids_mapping"].numpy()[self._order]


class ManagedRows:
    """A map from items to their present rows. In `ItemRows`, the rows of items do not change.

    Attributes:
        items: I.
        rows: R.
        has_row_I: None, because all items have a row: items that are not admitted share the last
            row of their block.
        own_row_I: bool, whether an item was admitted, on any rank, at the last `refresh`; None
            before the first one.
        recommendable_I: the same array, because only admitted items are recommended.
    """

    has_row_I = None
    an_item = 0

    def __init__(self, config: UnseenConfig, items: int) -> None:
        self.items = items
        self.rows = config.rows
        self.size = config.rows // config.blocks
        self.own_row_I: np.ndarray | None = None
        self.recommendable_I: np.ndarray | None = None
        self._held = Held.each_its_own(0, 0)

    def refresh(self, blocks: Blocks, total: Callable[[Tensor], Tensor]) -> None:
        """Updates which items are admitted. Every rank must call it.

        Args:
            blocks: this rank's blocks.
            total: function that sums a tensor over ranks.
        """
        # The table may hold items that this data set lacks.
        held = blocks.held()
        in_data_C = held.item_C < self.items
        self._held = Held(held.item_C[in_data_C], held.row_C[in_data_C])

        # The sum over ranks is 0 or 1, because an item is admitted on at most one rank.
        admitted_I = torch.zeros(self.items, dtype=torch.uint8)
        admitted_I[torch.from_numpy(self._held.item_C)] = 1
        self.own_row_I = self.recommendable_I = total(admitted_I).numpy().astype(bool)

    def to_ids(self, item_N: np.ndarray) -> np.ndarray:
        """Returns the ids to look up in the table."""
        return spread(item_N)

    def retrieved(self, first: int, last: int) -> Held:
        """Returns the admitted items of this rank. [first, last) must be the rows of this rank."""
        return self._held

    def trained(self, row_X: Tensor) -> Tensor:
        """Returns bool [X], whether a row belongs to one item.

        Targets in shared rows are not learned.
        """
        return row_X % self.size != self.size - 1


def _times(values: np.ndarray, factor: int) -> np.ndarray:
    """Returns products modulo 2^40. Overflow does no harm, because 2^40 divides 2^64."""
    product: np.ndarray = values.astype(np.uint64) * np.uint64(factor) % np.uint64(_RANGE)
    return product.astype(np.int64)


def _jagged(values: Tensor) -> JaggedTensor:
    """Returns the values as a jagged tensor with a single row."""
    return JaggedTensor(values=values, lengths=torch.tensor([len(values)], device=values.device))
