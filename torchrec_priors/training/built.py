"""A model that is distributed over the ranks, and the index of the items that it may recommend.

Shapes: I items of the data set, S item sets.
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.managed.table import blocks_of
from torchrec_priors.embedding.own_rows import OwnRows
from torchrec_priors.embedding.plan import ModelPlan
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.heads.nodes import Depth
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.settings.table import TABLE
from torchrec_priors.training.catalogue import read_catalogue
from torchrec_priors.training.run.paths import Counted, over_item_sets

log = logging.getLogger(__name__)

# The item LLM's parameters begin with it. DDP does not average their gradients, because these come
# after those of all parts of a batch (`step.py`).
ITEM_LLM = "content.reader."


@dataclass(frozen=True)
class Built:
    """A distributed model, and the values that were computed to build it.

    Attributes:
        parallel: TorchRec's wrapper around the model; training steps and checkpoints use it.
        model: the model inside the wrapper; everything except training steps uses it.
        tables: the rows that this rank is responsible for, by the name of the table.
        ranks: the ranks that the model is distributed over.
        plan: how the tables are divided among the ranks.
        columns: the columns of the sequences that the encoder reads in addition to the items.
        training_columns: the columns that the encoder and the prior tree read in training.
        depths: the nodes of the prior tree that have adapters, for each depth of the tree.
        counted: the numbers of training positives and targets.
        seen_I: bool, whether each item occurs often enough in the training data to get its own row;
            None if this does not depend on how often an item occurs.
        for_training: whether the model is trained; otherwise it is only read.
    """

    parallel: DistributedModelParallel
    model: Recommender
    tables: dict[str, OwnRows]
    ranks: Ranks
    plan: ModelPlan
    columns: tuple[str, ...]
    training_columns: tuple[str, ...]
    depths: list[Depth]
    counted: Counted
    seen_I: np.ndarray | None
    for_training: bool = True
    _index: list[GroupIndex] = field(default_factory=list)
    _described: list[bool] = field(default_factory=list)

    @property
    def positives_S(self) -> Tensor:
        """The number of training positives of each item set, int64 [S], over all its paths."""
        return over_item_sets(self.model.tree, self.counted.positives_K)

    @property
    def own(self) -> OwnRows:
        """The rows of the item table that this rank is responsible for."""
        return self.tables[TABLE]

    @property
    def shard(self) -> Shard:
        """A live view of the rows in `own`; it exists only if the table is sharded by rows."""
        assert self.own.live is not None, "other ranks have the rows: see `OwnRows.fetch`"
        return self.own.live

    def describe_items(self, folder: Path | None = None, identity: str = "") -> None:
        """Lets the item LLM read all items, unless this has been done with its present weights.

        Every rank must call it. Without an item LLM it does nothing.

        Args:
            folder: where vectors are kept, so that they need not be computed again; None to keep
                them in memory only.
            identity: names the weights of the model in this folder.
        """
        content = self.model.content
        if content is None or content.reader is None or self._described:
            return
        assert isinstance(content.reader, ItemLLM)
        vector_Mc = read_catalogue(content.reader, self.ranks, folder, identity)
        content.describe(vector_Mc)
        # A frozen item LLM never changes, and a model that is only read does not change either.
        if not content.is_trained or not self.for_training:
            self._described.append(True)

    def fetch_index(self) -> GroupIndex:
        """Returns the retrieval index over this rank's items, with the current values of the rows.

        Every rank must call it, because rows may have to be fetched from other ranks.
        """
        rows = self.model.item_rows
        block = self.own.fetch()
        retrieved = None
        inputs = None
        self.describe_items()
        if self.model.content is not None:
            found = self.model.content.candidates(
                block, self.ranks.rank, self.ranks.world, self.model.score.items, self.ranks.total
            )
            retrieved = found.held
            block = found.vectors
            if found.factors is not None:
                inputs = found.vectors
                block = found.factors
            if self.ranks.leads:
                self._say_mapped()

        # A managed table gives rows to other items during training, so its index is built again.
        # Other tables keep the row of each item: their index only gets the current values.
        if isinstance(rows, ManagedRows):
            rows.refresh(blocks_of(self.model.table), self.ranks.total)
        elif self._index:
            return self._index[0].over(block, inputs)

        if retrieved is None:
            retrieved = rows.retrieved(self.own.first, self.own.last)
        index = GroupIndex(self.model.tree, block, retrieved, inputs)
        if rows.recommendable_I is not None:
            index.set_sizes = self.ranks.total(torch.tensor(index.own_sizes)).numpy()

        # The index is kept without the rows, so that these are not in memory twice.
        no_rows = block.rows.new_empty(0, block.rows.shape[1])
        self._index[:] = [index.over(Shard(no_rows, block.first))]
        return index

    def _say_mapped(self) -> None:
        """Logs how well content tells what items with rows have learned, or why it is not used."""
        content = self.model.content
        if content is None or content.mapped is None or not content.rows.content_rows:
            return

        mapped = content.mapped
        if mapped.map is None:
            log.warning(
                "embedding.map_content: only %s items have a row and content, too few to fit a "
                "map: items without rows are scored by the projection of their content",
                mapped.sample,
            )
            return

        how_well = ""
        explained = mapped.map.explained
        if not math.isnan(explained):
            how_well = f", which explains {explained:.0%} of what other items have learned"
            how_well += " (held-out items)"
        log.info(
            "%s items without rows get their scores from their content%s",
            f"{content.rows.content_rows:,}",
            how_well,
        )
