"""The item table with TorchRec's managed collisions: few rows for many items, admitted while training and evicted.

TorchRec's modules keep the ids, counters and evictions (`MCHManagedCollisionModule`); `Blocks` puts them together so
that nothing depends on the number of ranks. Ids are spread over a range of 2^40 numbers, which is cut into a fixed
number of blocks, and the table's rows into as many: a block of ids shares one block of rows, whose last row stands for
all of its ids that are not admitted. A rank has whole blocks.

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
_BACK = pow(_FACTOR, -1, _RANGE)
_FREE = torch.iinfo(torch.int64).max  # TorchRec's mark of a row that is nobody's
_POLICIES = {
    "lfu": LFU_EvictionPolicy,
    "lru": LRU_EvictionPolicy,
    "distance_lfu": DistanceLFU_EvictionPolicy,
}
_STATE = ("_mch_sorted_raw_ids", "_mch_remapped_ids_mapping")

Features = dict[str, JaggedTensor]


def spread(item: np.ndarray) -> np.ndarray:
    """int64 numbers in [0, 2^40), another for every row id; consecutive ones are far apart.

    >>> unspread(spread(np.array([0, 1, 2_000_000_000]))).tolist()
    [0, 1, 2000000000]
    """
    return _times(item, _FACTOR)


def unspread(raw: np.ndarray) -> np.ndarray:
    """Row ids of what `spread` made of them."""
    return _times(raw, _BACK)


def _times(values: np.ndarray, factor: int) -> np.ndarray:
    product: np.ndarray = (
        values.astype(np.uint64) * np.uint64(factor) % np.uint64(_RANGE)
    )  # 2^40 divides 2^64
    return product.astype(np.int64)


def managed_table(config: UnseenConfig, dim: int) -> ManagedCollisionEmbeddingCollection:
    """The table of `config.rows` rows on the meta device, which also says what rows its ids have."""
    table = item_table(config.rows, dim)
    blocks = Blocks(config, (0, config.rows), [0, config.rows], torch.device("meta"))
    collisions = ManagedCollisionCollection({TABLE: blocks}, table.embedding_configs())
    return ManagedCollisionEmbeddingCollection(table, collisions, return_remapped_features=True)


class Blocks(ManagedCollisionModule):
    """TorchRec's modules of consecutive blocks, as one.

    Lookups change nothing: what was met is told to `admit`, between steps. (TorchRec's own order, inside the lookup,
    would count sampled negatives as interest, and reset rows that this step's gradients still belong to.)
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
            rows: of the table, [first, last), which are whole blocks.
            output_segments: bounds of the ranks' rows.
        """
        super().__init__(device=device, output_segments=output_segments)
        self.config = config
        self.first = rows[0]
        self.size = config.rows // config.blocks
        self._segments = self._output_segments_tensor.clone()
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
        names = [*_STATE, *(f"_mch_{info.metadata_name}" for info in policy.metadata_info)]
        for (
            name
        ) in names:  # the parts' own become views of one tensor, which is sharded as the table is
            whole = torch.cat([part.get_buffer(name) for part in self.parts])
            self.register_buffer(name, whole)
            for part, view in zip(self.parts, whole.split(self.size), strict=True):
                setattr(part, name, view)
                if name not in _STATE:
                    part._mch_metadata[name.removeprefix("_mch_")] = view

    _mch_sorted_raw_ids: Tensor
    _mch_remapped_ids_mapping: Tensor

    def admit(self, raw_ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Counts what was met since the last call, admits and evicts.

        Args:
            raw_ids: ids of this rank's blocks, in any order, as often as they were met.

        Returns:
            Rows that now are another item's, and whose: (rows of the table, row ids of items).
        """
        block = raw_ids // self._block_of_ids - self.first // self.size
        done = int(self._current_iter_tensor)
        changed = []
        for number, part in enumerate(self.parts):
            part._current_iter = part._last_eviction_iter = done
            part._input_history_buffer_size = -1  # a buffer that holds what is told now
            part.train().profile({TABLE: _jagged(raw_ids[block == number])})
            evicted = part.evict()
            assert evicted is not None
            changed.append(evicted)
        self._current_iter_tensor += 1
        row = torch.cat(changed).cpu().numpy()
        held_row, held_item = self._inverse()
        place = np.searchsorted(held_row, row)
        return row, held_item[place]

    def fits(self, other: UnseenConfig) -> bool:
        """Whether another table has blocks of the same form and counters."""
        return all(
            getattr(other, name) == getattr(self.config, name)
            for name in ("rows", "blocks", "eviction")
        )

    @property
    def range_of_ids(self) -> tuple[int, int]:
        """[first, last) of this rank's blocks."""
        first = self.first // self.size * self._block_of_ids
        return first, first + len(self.parts) * self._block_of_ids

    def held(self) -> Held:
        """The admitted items of this rank's blocks, and their rows."""
        row, item = self._inverse()
        order = np.argsort(item)
        return Held(item[order], row[order])

    def _inverse(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, item) of all that are admitted, rows ascending."""
        raw = self._mch_sorted_raw_ids.cpu().numpy()
        row = self._mch_remapped_ids_mapping.cpu().numpy()
        admitted = raw != _FREE
        order = np.argsort(row[admitted])
        return row[admitted][order], unspread(raw[admitted][order])

    @property
    def _block_of_ids(self) -> int:
        return -(-_RANGE // self.config.blocks)

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
        raw = feature.values()
        block = raw // self._block_of_ids - self.first // self.size
        rows = torch.empty_like(raw)
        for number, part in enumerate(self.parts):
            here = torch.nonzero(block == number).squeeze(1)
            rows[here] = part.remap({TABLE: _jagged(raw[here])})[TABLE].values()
        return JaggedTensor(
            values=rows, lengths=feature.lengths(), weights=feature.weights_or_none()
        )

    def forward(self, features: Features, mutate_miss_lengths: bool = True) -> Features:
        return self.remap(features)

    def evict(self) -> None:
        """Nothing inside a lookup: see `admit`."""

    def output_size(self) -> int:
        return len(self._mch_sorted_raw_ids)

    def input_size(self) -> int:
        return _RANGE

    def buckets(self) -> int:
        return self.config.blocks

    def open_slots(self) -> Tensor:
        return (self._mch_sorted_raw_ids == _FREE).sum() - len(self.parts)

    def validate_state(self) -> None:
        """A checkpoint of another number of ranks says where their rows were, not ours."""
        self._output_segments_tensor.copy_(self._segments)

    def rebuild_with_output_id_range(
        self,
        output_id_range: tuple[int, int],
        output_segments: list[int],
        device: torch.device | None = None,
    ) -> "Blocks":
        return Blocks(self.config, output_id_range, output_segments, device or self.device)


def blocks_of(table: Any) -> Blocks:
    """Those of this rank, inside a sharded table."""
    blocks = table._managed_collision_collection._managed_collision_modules[TABLE]
    assert isinstance(blocks, Blocks)
    return blocks


def to_owners(table: Any, raw_ids: Tensor) -> Tensor:
    """Ids that this rank has met -> those of its blocks that any rank has. Every rank must call it."""
    collisions = table._managed_collision_collection
    ids = KeyedJaggedTensor(
        keys=[TABLE], values=raw_ids, lengths=torch.tensor([len(raw_ids)], device=raw_ids.device)
    )
    values: Tensor = (
        collisions.input_dist(collisions.create_context(), ids).wait().wait()[0].values()
    )
    return values


def reset_rows(table: Any, rows: Tensor, values: Tensor) -> None:
    """Gives rows of this rank (numbered from its first) new values, and the optimizer nothing to remember of them.

    FBGEMM's own, `reset_embedding_weight_momentum`, is not there on a CPU.
    """
    kernel, _ = table._table_to_tbe_and_index[TABLE]
    with torch.no_grad():
        kernel.split_embedding_weights()[0][rows] = values
        for state in kernel.get_optimizer_state()[0].values():
            state[rows] = 0.0


def _jagged(values: Tensor) -> JaggedTensor:
    return JaggedTensor(values=values, lengths=torch.tensor([len(values)], device=values.device))


@dataclass(frozen=True)
class State:
    """What a whole managed table holds, as a checkpoint has it: by name of `Blocks`' buffers, of all ranks."""

    config: UnseenConfig
    buffers: dict[str, Tensor]

    @classmethod
    def load(cls, config: UnseenConfig, load: Callable[[str], Tensor | None]) -> "State":
        """
        Args:
            load: the end of a tensor's name -> the whole tensor, None where there is none.
        """
        names = (*_STATE, "_current_iter_tensor", "_mch_counts", "_mch_last_access_iter")
        found = {name: load(f".{TABLE}.{name}") for name in names}
        return cls(config, {name: tensor for name, tensor in found.items() if tensor is not None})

    def rows_of(self, item: np.ndarray) -> np.ndarray:
        """Rows of items: their own, or the one that their block's ids share."""
        place, admitted = self._find(item)
        block = spread(item) // -(-_RANGE // self.config.blocks)
        size = self.config.rows // self.config.blocks
        found: np.ndarray = np.where(admitted, self._rows[place], (block + 1) * size - 1)
        return found

    def admitted(self, item: np.ndarray) -> np.ndarray:
        """bool: items that have a row of their own."""
        return self._find(item)[1]

    def give(self, blocks: "Blocks") -> None:
        """Fills the blocks of a rank of a table of the same form."""
        for name, whole in self.buffers.items():
            here = (
                whole
                if name == "_current_iter_tensor"
                else whole[blocks.first : blocks.first + blocks.output_size()]
            )
            blocks.get_buffer(name).copy_(here)

    def _find(self, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raw = spread(item)
        place = np.minimum(np.searchsorted(self._raw, raw), len(self._raw) - 1)
        return place, self._raw[place] == raw

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.buffers["_mch_sorted_raw_ids"].numpy(), kind="stable")

    @cached_property
    def _raw(self) -> np.ndarray:
        return self.buffers["_mch_sorted_raw_ids"].numpy()[self._order]

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.buffers["_mch_remapped_ids_mapping"].numpy()[self._order]


class ManagedRows:
    """Items and the rows that they have at present; the counterpart of `ItemRows`, which stays as it is.

    Attributes:
        items: of the data set.
        rows: R.
        has_row_I: None: what is not admitted has its block's last row.
        own_row_I, recommendable_I: bool by item, those that are admitted on any rank, as `refresh` last found them.
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
        """Takes up what is admitted now. Every rank must call it; `total` gives a tensor's sum over ranks."""
        held = blocks.held()
        there = held.item_C < self.items
        self._held = Held(held.item_C[there], held.row_C[there])
        admitted_I = torch.zeros(self.items, dtype=torch.uint8)
        admitted_I[torch.from_numpy(self._held.item_C)] = 1
        self.own_row_I = self.recommendable_I = total(admitted_I).numpy().astype(bool)

    def to_ids(self, item_N: np.ndarray) -> np.ndarray:
        """What the table is asked for."""
        return spread(item_N)

    def retrieved(self, first: int, last: int) -> Held:
        """Admitted items whose rows, [first, last), this rank holds."""
        return self._held

    def trained(self, row_X: Tensor) -> Tensor:
        """bool [X]: rows that are one item's; a row that many share is nobody's target."""
        return row_X % self.size != self.size - 1
