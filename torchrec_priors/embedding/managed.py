"""The item table with TorchRec's managed collisions: few rows for many items, which are admitted
during training and evicted.

TorchRec's modules keep the ids, counters and evictions (`MCHManagedCollisionModule`); `Blocks`
combines them so that nothing depends on the number of ranks. Ids are spread over a range of 2^40
numbers, which is cut into a fixed number of blocks, and the table's rows into the same number: a
block of ids shares one block of rows, of which the last is for all ids that are not admitted. A
rank has whole blocks.

Shapes: R rows of the table, n rows of this rank.
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

_RANGE = 1 << 40
_FACTOR = 0x9E3779B97F4A7C15 % _RANGE  # odd: multiplying by it is a permutation of the range
_INVERSE_FACTOR = pow(_FACTOR, -1, _RANGE)
_FREE = torch.iinfo(torch.int64).max  # TorchRec's mark of a row without an item
_POLICIES = {
    "lfu": LFU_EvictionPolicy,
    "lru": LRU_EvictionPolicy,
    "distance_lfu": DistanceLFU_EvictionPolicy,
}
_STATE = ("_mch_sorted_raw_ids", "_mch_remapped_ids_mapping")

Features = dict[str, JaggedTensor]


def spread(item: np.ndarray) -> np.ndarray:
    """int64 numbers in [0, 2^40), a different one for every row id; those of consecutive row ids
    are far apart.

    >>> unspread(spread(np.array([0, 1, 2_000_000_000]))).tolist()
    [0, 1, 2000000000]
    """
    return _times(item, _FACTOR)


def unspread(raw: np.ndarray) -> np.ndarray:
    """The row ids from which `spread` computed these numbers."""
    return _times(raw, _INVERSE_FACTOR)


def managed_table(config: UnseenConfig, dim: int) -> ManagedCollisionEmbeddingCollection:
    """The table of `config.rows` rows on the meta device, with the map from ids to rows."""
    table = item_table(config.rows, dim)
    blocks = Blocks(config, (0, config.rows), [0, config.rows], torch.device("meta"))
    collisions = ManagedCollisionCollection({TABLE: blocks}, table.embedding_configs())
    return ManagedCollisionEmbeddingCollection(table, collisions, return_remapped_features=True)


class Blocks(ManagedCollisionModule):
    """TorchRec's modules of consecutive blocks, as one module.

    Lookups change nothing: ids that training saw are given to `admit`, between steps. (TorchRec's
    order, inside the lookup, would count sampled negatives as interest, and reset rows to which
    this step's gradients still belong.)
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
            rows: rows [first, last) of the table, which are whole blocks.
            output_segments: bounds of the ranks' rows.
        """
        super().__init__(device=device, output_segments=output_segments)
        self.config = config
        self.first = rows[0]
        self.size = config.rows // config.blocks
        self._segments = self._output_segments_tensor.clone()

        # One module of TorchRec for each block: it evicts inside its block only.
        policy = _POLICIES[config.eviction]()
        self.parts = [
            MCHManagedCollisionModule(
                zch_size=self.size,
                device=device,
                eviction_policy=policy,
                eviction_interval=1,  # of calls of `admit`
                input_hash_size=_RANGE,
                output_global_offset=start,
            )
            for start in range(*rows, self.size)
        ]

        # The parts' buffers become views of one tensor, which is sharded as the table is.
        names = [*_STATE, *(f"_mch_{info.metadata_name}" for info in policy.metadata_info)]
        for name in names:
            # TorchRec keeps counters a second time, in a dictionary, which must be the same
            # tensors.
            whole = torch.cat([part.get_buffer(name) for part in self.parts])
            self.register_buffer(name, whole)
            for part, view in zip(self.parts, whole.split(self.size), strict=True):
                setattr(part, name, view)
                if name not in _STATE:
                    part._mch_metadata[name.removeprefix("_mch_")] = view

    _mch_sorted_raw_ids: Tensor
    _mch_remapped_ids_mapping: Tensor

    def admit(self, raw_ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Counts the ids seen since the last call, admits and evicts.

        Args:
            raw_ids: ids of this rank's blocks, in any order, each as often as it was seen.

        Returns:
            Rows that now belong to another item, and the items: (rows of the table, row ids of
                items).
        """
        block = raw_ids // self._block_of_ids - self.first // self.size
        calls = int(self._current_iter_tensor)

        changed = []
        for number, part in enumerate(self.parts):
            # TorchRec's module evicts one interval after its last eviction, which is now.
            part._current_iter = part._last_eviction_iter = calls
            part._input_history_buffer_size = -1  # makes a buffer that holds just these ids
            part.train().profile({TABLE: _jagged(raw_ids[block == number])})
            evicted = part.evict()
            assert evicted is not None
            changed.append(evicted)
        self._current_iter_tensor += 1

        # The rows that were evicted now have other items.
        row = torch.cat(changed).cpu().numpy()
        held_row, held_item = self._admitted()
        index = np.searchsorted(held_row, row)
        return row, held_item[index]

    def fits(self, other: UnseenConfig) -> bool:
        """Whether a table of other settings has blocks of the same form and counters."""
        return all(
            getattr(other, name) == getattr(self.config, name)
            for name in ("rows", "blocks", "eviction")
        )

    @property
    def range_of_ids(self) -> tuple[int, int]:
        """The ids [first, last) of this rank's blocks."""
        # The last block of ids may reach beyond the range, where no id is.
        first = self.first // self.size * self._block_of_ids
        return first, first + len(self.parts) * self._block_of_ids

    def held(self) -> Held:
        """The admitted items of this rank's blocks, and their rows."""
        row, item = self._admitted()
        order = np.argsort(item)
        return Held(item[order], row[order])

    def _admitted(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, item) of all admitted items, rows ascending."""
        raw = self._mch_sorted_raw_ids.cpu().numpy()
        row = self._mch_remapped_ids_mapping.cpu().numpy()
        admitted = raw != _FREE
        order = np.argsort(row[admitted])
        return row[admitted][order], unspread(raw[admitted][order])

    @property
    def _block_of_ids(self) -> int:
        """The number of ids of a block."""
        return -(-_RANGE // self.config.blocks)

    # What follows is the interface of TorchRec's managed collision modules.

    def preprocess(self, features: Features) -> Features:
        return features

    def profile(self, features: Features) -> Features:
        return features

    def remap(
        self,
        features: Features,
        mutate_miss_lengths: bool = True,
        write_weights: Tensor | None = None,
    ) -> Features:
        return {name: self._remapped(feature) for name, feature in features.items()}

    def _remapped(self, feature: JaggedTensor) -> JaggedTensor:
        # An id's block is known from its number, so each part sees only its ids.
        raw = feature.values()
        block = raw // self._block_of_ids - self.first // self.size
        rows = torch.empty_like(raw)
        for number, part in enumerate(self.parts):
            index = torch.nonzero(block == number).squeeze(1)
            rows[index] = part.remap({TABLE: _jagged(raw[index])})[TABLE].values()
        return JaggedTensor(
            values=rows, lengths=feature.lengths(), weights=feature.weights_or_none()
        )

    def forward(self, features: Features, mutate_miss_lengths: bool = True) -> Features:
        return self.remap(features)

    def evict(self) -> None:
        """Does nothing inside a lookup: see `admit`."""

    def output_size(self) -> int:
        return len(self._mch_sorted_raw_ids)

    def input_size(self) -> int:
        return _RANGE

    def buckets(self) -> int:
        return self.config.blocks

    def open_slots(self) -> Tensor:
        # The last row of each block is free for ever.
        return (self._mch_sorted_raw_ids == _FREE).sum() - len(self.parts)

    def validate_state(self) -> None:
        """Restores the bounds of the ranks' rows: a checkpoint has those of the ranks that wrote
        it."""
        self._output_segments_tensor.copy_(self._segments)

    def rebuild_with_output_id_range(
        self,
        output_id_range: tuple[int, int],
        output_segments: list[int],
        device: torch.device | None = None,
    ) -> "Blocks":
        return Blocks(self.config, output_id_range, output_segments, device or self.device)


def blocks_of(table: Any) -> Blocks:
    """The blocks of this rank, inside a sharded table."""
    blocks = table._managed_collision_collection._managed_collision_modules[TABLE]
    assert isinstance(blocks, Blocks)
    return blocks


def to_owners(table: Any, raw_ids: Tensor) -> Tensor:
    """Exchanges the ids that ranks have seen for those of their own blocks. Every rank must call
    it.

    Args:
        raw_ids: ids that this rank has seen.

    Returns:
        ids of this rank's blocks that any rank has seen.
    """
    collisions = table._managed_collision_collection
    ids = KeyedJaggedTensor(
        keys=[TABLE], values=raw_ids, lengths=torch.tensor([len(raw_ids)], device=raw_ids.device)
    )
    # The same exchange as of a lookup: first the lengths are sent, then the ids.
    values: Tensor = (
        collisions.input_dist(collisions.create_context(), ids).wait().wait()[0].values()
    )
    return values


def reset_rows(table: Any, rows: Tensor, values: Tensor) -> None:
    """Gives rows of this rank (numbered from its first) new values, and zeros to their optimizer
    state.

    FBGEMM's own `reset_embedding_weight_momentum` does not exist on a CPU.
    """
    # The only table of its kernel, so its views and states are the first.
    kernel, _ = table._table_to_tbe_and_index[TABLE]
    with torch.no_grad():
        kernel.split_embedding_weights()[0][rows] = values
        for state in kernel.get_optimizer_state()[0].values():
            state[rows] = 0.0


@dataclass(frozen=True)
class State:
    """What a whole managed table holds, as a checkpoint has it.

    Attributes:
        config: settings of the table.
        buffers: `Blocks`' buffers by name, of all ranks together.
    """

    config: UnseenConfig
    buffers: dict[str, Tensor]

    @classmethod
    def load(cls, config: UnseenConfig, load: Callable[[str], Tensor | None]) -> "State":
        """Reads the buffers of a checkpoint.

        Args:
            load: function from the end of a tensor's name to the whole tensor, or None if the
                checkpoint has none.
        """
        # Which counters there are depends on the policy.
        names = (*_STATE, "_current_iter_tensor", "_mch_counts", "_mch_last_access_iter")
        tensors = {name: load(f".{TABLE}.{name}") for name in names}
        buffers = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return cls(config, buffers)

    def rows_of(self, item: np.ndarray) -> np.ndarray:
        """Rows of items: their own, or the one that their block's ids share."""
        # What is not admitted has the last row of its block.
        index, admitted = self._find(item)
        block = spread(item) // -(-_RANGE // self.config.blocks)
        size = self.config.rows // self.config.blocks
        rows: np.ndarray = np.where(admitted, self._rows[index], (block + 1) * size - 1)
        return rows

    def admitted(self, item: np.ndarray) -> np.ndarray:
        """bool, items that have their own row."""
        return self._find(item)[1]

    def give(self, blocks: "Blocks") -> None:
        """Fills a rank's blocks of a table of the same form."""
        for name, whole in self.buffers.items():
            values = whole
            if name != "_current_iter_tensor":  # a single number, the same on all ranks
                values = whole[blocks.first : blocks.first + blocks.output_size()]
            blocks.get_buffer(name).copy_(values)

    def _find(self, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index of each item's id among the sorted ids, and whether it is there."""
        raw = spread(item)
        index = np.minimum(np.searchsorted(self._raw, raw), len(self._raw) - 1)
        return index, self._raw[index] == raw

    @cached_property
    def _order(self) -> np.ndarray:
        # Each block is sorted, with its free rows at the end: the whole is not.
        return np.argsort(self.buffers["_mch_sorted_raw_ids"].numpy(), kind="stable")

    @cached_property
    def _raw(self) -> np.ndarray:
        return self.buffers["_mch_sorted_raw_ids"].numpy()[self._order]

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.buffers["_mch_remapped_ids_mapping"].numpy()[self._order]


class ManagedRows:
    """Items and the rows that they have at present; the counterpart of `ItemRows`, which does not
    change.

    Attributes:
        items: number of items of the data set.
        rows: R.
        has_row_I: None, as all items have a row: those that are not admitted have their block's
            last.
        own_row_I: bool by item, those that are admitted on any rank, as of the last `refresh`.
        recommendable_I: the same.
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

        # A sum over ranks, as an item is admitted on at most one.
        admitted_I = torch.zeros(self.items, dtype=torch.uint8)
        admitted_I[torch.from_numpy(self._held.item_C)] = 1
        self.own_row_I = self.recommendable_I = total(admitted_I).numpy().astype(bool)

    def to_ids(self, item_N: np.ndarray) -> np.ndarray:
        """Ids to look up in the table."""
        return spread(item_N)

    def retrieved(self, first: int, last: int) -> Held:
        """Admitted items of which this rank holds the rows; [first, last) must be this rank's."""
        return self._held

    def trained(self, row_X: Tensor) -> Tensor:
        """bool [X], rows of one item; a row that many items share is not a target."""
        return row_X % self.size != self.size - 1


def _times(values: np.ndarray, factor: int) -> np.ndarray:
    """Products modulo 2^40, which divides 2^64: overflow does no harm."""
    product: np.ndarray = values.astype(np.uint64) * np.uint64(factor) % np.uint64(_RANGE)
    return product.astype(np.int64)


def _jagged(values: Tensor) -> JaggedTensor:
    """All values as those of one row."""
    return JaggedTensor(values=values, lengths=torch.tensor([len(values)], device=values.device))
