"""The blocks of a rank: which items have which rows of a managed table, as TorchRec's modules."""

import numpy as np
import torch
from torch import Tensor
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    ManagedCollisionModule,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_priors.embedding.item_rows import Held
from torchrec_priors.embedding.managed.ids import RANGE, ids_per_block, unspread
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.table import TABLE

_FREE = torch.iinfo(torch.int64).max  # TorchRec's id for a row that no item has
_POLICIES = {
    "lfu": LFU_EvictionPolicy,
    "lru": LRU_EvictionPolicy,
    "distance_lfu": DistanceLFU_EvictionPolicy,
}
STATE = ("_mch_sorted_raw_ids", "_mch_remapped_ids_mapping")  # TorchRec's buffers: ids, their rows

Features = dict[str, JaggedTensor]


class Blocks(ManagedCollisionModule):
    """The blocks of a rank as one module. Each block has one of TorchRec's modules.

    Lookups change nothing. Between steps, `admit` receives the ids that training has seen. TorchRec
    would admit and evict during a lookup. But then sampled negatives would count as seen items, and
    rows would get new items while gradients of the same step still belong to the old ones.
    """

    _mch_sorted_raw_ids: Tensor
    _mch_remapped_ids_mapping: Tensor

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
        self._ids_per_block = ids_per_block(config.blocks)
        self._segments = self._output_segments_tensor.clone()

        # With one module of TorchRec for each block, items of a block only evict each other.
        policy = _POLICIES[config.eviction]()
        self.parts = [
            MCHManagedCollisionModule(
                zch_size=self.size,
                device=device,
                eviction_policy=policy,
                eviction_interval=1,  # counted in calls of `admit`
                input_hash_size=RANGE,
                output_global_offset=start,
            )
            for start in range(*rows, self.size)
        ]

        # The buffers of all parts become views of one tensor, which is sharded like the table.
        names = [*STATE, *(f"_mch_{info.metadata_name}" for info in policy.metadata_info)]
        for name in names:
            # TorchRec also has the counters in a dictionary, which must contain the same tensors.
            whole = torch.cat([part.get_buffer(name) for part in self.parts])
            self.register_buffer(name, whole)
            for part, view in zip(self.parts, whole.split(self.size), strict=True):
                setattr(part, name, view)
                if name not in STATE:
                    part._mch_metadata[name.removeprefix("_mch_")] = view

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
        return RANGE

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


def _jagged(values: Tensor) -> JaggedTensor:
    """Returns the values as a jagged tensor with a single row."""
    return JaggedTensor(values=values, lengths=torch.tensor([len(values)], device=values.device))
