"""A managed item table: making one, and what `Blocks` does not do once the table is sharded."""

from typing import Any

import torch
from torch import Tensor
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.modules.mc_modules import ManagedCollisionCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.embedding.item_table import item_table
from torchrec_priors.embedding.managed.blocks import Blocks
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.table import TABLE


def managed_table(config: UnseenConfig, dim: int) -> ManagedCollisionEmbeddingCollection:
    """Returns a table of `config.rows` rows on the meta device, with its map from ids to rows."""
    table = item_table(config.rows, dim)
    blocks = Blocks(config, (0, config.rows), [0, config.rows], torch.device("meta"))
    collisions = ManagedCollisionCollection({TABLE: blocks}, table.embedding_configs())
    return ManagedCollisionEmbeddingCollection(table, collisions, return_remapped_features=True)


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
