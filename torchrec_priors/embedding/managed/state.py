"""Which items have which rows in a whole managed table, as a checkpoint has it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from torchrec_priors.embedding.managed.blocks import STATE, Blocks
from torchrec_priors.embedding.managed.ids import ids_per_block, spread
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.table import TABLE


@dataclass(frozen=True)
class ManagedState:
    """Which items have which rows in a whole managed table, from a checkpoint.

    Attributes:
        config: settings of the table.
        buffers: buffers of `Blocks` by name, each for the rows of all ranks.
    """

    config: UnseenConfig
    buffers: dict[str, Tensor]

    @classmethod
    def load(cls, config: UnseenConfig, load: Callable[[str], Tensor | None]) -> "ManagedState":
        """Reads the buffers of a checkpoint.

        Args:
            config: settings of the table.
            load: function that returns the whole tensor whose name has a given ending; None if the
                checkpoint has no such tensor.
        """
        # Some of these counters exist only with some eviction policies.
        names = (*STATE, "_current_iter_tensor", "_mch_counts", "_mch_last_access_iter")
        tensors = {name: load(f".{TABLE}.{name}") for name in names}
        buffers = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return cls(config, buffers)

    def rows_of(self, item: np.ndarray) -> np.ndarray:
        """Returns the row of each item: its own row, or the shared row of its block."""
        # Items that are not admitted share the last row of their block.
        index, admitted = self._find(item)
        block = spread(item) // ids_per_block(self.config.blocks)
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
