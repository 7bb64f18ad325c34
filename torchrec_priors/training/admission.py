"""Decides when a managed table admits items in training, and draws negatives from its items.

A managed table has rows only for some items: it admits items that occur often in training, and
evicts others to make room. Its rows are divided into blocks, and each id belongs to one block. Each
rank notes the items of its batches. Every `embedding.eviction_interval` steps, before the step's
negatives are drawn, the noted ids are sent to the ranks that have their blocks, which then decide
what to admit.

A checkpoint contains the state of the table, but not the items that were noted since the last
admission. When a run resumes, these are read from the data set again.

Shapes: C items of this rank's blocks (those that may be admitted, or those that have rows now), S
item sets, I items of the data set.
"""

from collections.abc import Iterator

import numpy as np
import torch

from torchrec_priors.data.windows import Windows
from torchrec_priors.embedding.item_table import first_values
from torchrec_priors.embedding.managed.ids import spread
from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.managed.table import blocks_of, reset_rows, to_owners
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.sampling.group_sampler import Draw, GroupSampler, OwnItems
from torchrec_priors.sampling.popularity import draw_weights
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.built import Built
from torchrec_priors.training.sampler import sampler_over


class Admission:
    """Admits items and draws negatives.

    Every rank must create an `Admission` and call its methods in the same order.
    """

    def __init__(self, built: Built, config: RunConfig, data: PreparedData, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks
        self.interval = config.embedding.eviction_interval
        self.table = built.model.table
        self.blocks = blocks_of(built.model.table)
        self.shard = built.shard
        self.tree = built.model.tree
        assert isinstance(built.model.item_rows, ManagedRows)

        self._own_C = self._items_of_own_blocks(data.items)
        self._indices_S = self.tree.eligible_among(self._own_C)
        frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
        self._weight_I = draw_weights(frequency, config.negatives.popularity)
        self._positives_S = built.positives_S.numpy()

        self._noted: list[np.ndarray] = []
        self._sampler = self._make_sampler()

    def last_admission(self, step: int) -> int:
        """Returns the last step before `step` that admitted items; -1 if no step did."""
        if step == 0:
            return -1
        return (step - 1) // self.interval * self.interval

    def catch_up(self, stream: Iterator[Windows], step: int) -> None:
        """When a run resumes at `step`, notes the items since the last admission once more.

        Args:
            stream: this rank's windows, from the first step after the last admission.
        """
        for windows in stream:
            if windows.step >= step:
                return
            self._note(windows)

    def draw(self, windows: Windows) -> tuple[Draw, np.ndarray]:
        """Draws the negatives of a step. If an admission is due, the table admits items first.

        Returns:
            The draw, and the ids to look up in the table for this rank's part of the draw.
        """
        self._note(windows)
        if windows.step % self.interval == 0:
            self._admit()
            self._sampler = self._make_sampler()
        draw = self._sampler.draw(windows.step)

        # The sampler draws rows of the table, but a managed table is looked up by items. So the
        # item of each drawn row is found.
        held = self.blocks.held()
        order = np.argsort(held.row_C)
        index = np.searchsorted(held.row_C[order], draw.own_ids)
        return draw, spread(held.item_C[order][index])

    def _note(self, windows: Windows) -> None:
        self._noted.append(spread(windows.items))

    def _admit(self) -> None:
        # Each id is given as often as it was noted, because the eviction policy counts the ids.
        noted = torch.from_numpy(np.concatenate(self._noted)).to(self.ranks.device)
        self._noted = []
        rows, items = self.blocks.admit(to_owners(self.table, noted))

        # The initial values of a row depend only on its item, not on the number of ranks.
        values = first_values(
            items, self.config.model.dim, self.config.seed, self.config.table.init_std
        )
        local = torch.from_numpy(rows - self.shard.first).to(self.ranks.device)
        reset_rows(self.table, local, values.to(self.ranks.device))

    def _make_sampler(self) -> GroupSampler:
        """Creates a sampler over the items that have rows now."""
        held = self.blocks.held()
        # Ids that are not in the data set have no weights, so they are never drawn.
        is_listed_C = held.item_C < len(self._weight_I)
        item_C = held.item_C[is_listed_C]
        row_C = held.row_C[is_listed_C]

        # The rows of each item set are sorted, because draws must not depend on the order in which
        # items were admitted.
        row_of_own = np.full(len(self._own_C), -1, np.int64)
        row_of_own[np.searchsorted(self._own_C, item_C)] = row_C
        sets = []
        for indices in self._indices_S:
            rows = row_of_own[indices]
            sets.append(np.sort(rows[rows >= 0]))
        if self.config.negatives.shared:
            sets.append(np.sort(row_C))

        weights = np.ones(len(self.shard.rows), np.int64)
        weights[row_C - self.shard.first] = self._weight_I[item_C]
        own = OwnItems.weighted(sets, self.shard.first, weights)
        return sampler_over(own, self.config, self.ranks, self._positives_S)

    def _items_of_own_blocks(self, items: int) -> np.ndarray:
        """Returns the row ids, ascending, of the items that belong to this rank's blocks."""
        item = np.arange(items)

        # `spread` maps row ids to well-mixed ids. The ids of a rank's blocks form a single range.
        first, last = self.blocks.range_of_ids
        raw = spread(item)
        return item[(raw >= first) & (raw < last)]
