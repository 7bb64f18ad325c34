"""The item table as a TorchRec `EmbeddingCollection` with a fused row-wise optimizer.

Rows are initialised from their ids, so that the table is the same on any number of ranks, however it is cut.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim import RowWiseAdagrad

from torchrec_priors.common.splitmix import GOLDEN, mix
from torchrec_priors.settings.table import TABLE

FEATURE = "item"

_NUMBERS_AT_A_TIME = 1 << 20


def item_table(items: int, dim: int) -> EmbeddingCollection:
    """The table of `items` rows on the meta device; `initialise_rows` or a checkpoint gives them their values."""
    return table_of(
        [
            EmbeddingConfig(
                name=TABLE, num_embeddings=items, embedding_dim=dim, feature_names=[FEATURE]
            )
        ]
    )


def table_of(configs: list[EmbeddingConfig]) -> EmbeddingCollection:
    """Tables on the meta device that TorchRec does not fill with first values of its own."""
    configs = [dataclasses.replace(config, init_fn=_leave_as_it_is) for config in configs]
    return EmbeddingCollection(device=torch.device("meta"), tables=configs)


def fuse_optimizer(table: EmbeddingCollection, learning_rate: float) -> None:
    """Row-wise Adagrad inside backward."""
    apply_optimizer_in_backward(RowWiseAdagrad, table.parameters(), {"lr": learning_rate})


def _leave_as_it_is(rows: Tensor) -> Tensor:
    """Instead of TorchRec's own random first values, which would be overwritten."""
    return rows


@dataclass(frozen=True)
class Shard:
    """Rows of a table, [rows, d] or some columns of them; the numbers of the first row and the first column."""

    rows: Tensor
    first: int
    first_column: int = 0

    @property
    def last(self) -> int:
        """One past the last row."""
        return self.first + len(self.rows)


def first_values(item_N: np.ndarray, dim: int, seed: int, std: float) -> Tensor:
    """[N, d] normal numbers that depend on (seed, row id of the item, column) alone: of rows that items are given late,
    in any order (splitmix64, Box-Muller)."""
    start = mix(np.array([seed ^ 0x6C617465], np.uint64) + GOLDEN)
    cell_Nd = (
        mix(item_N.astype(np.uint64)[:, None] * GOLDEN + start)
        + np.arange(dim, dtype=np.uint64) * GOLDEN
    )
    bits = mix(cell_Nd + GOLDEN)
    radius = np.sqrt(-2.0 * np.log(((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32))
    angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
    return torch.from_numpy(std * radius * np.cos(angle)).float()


def initialise_rows(
    shard: Shard, seed: int, std: float, table: int = 0, dim: int | None = None
) -> None:
    """Fills the shard with normal numbers that depend on (seed, number of the table, row id, column) alone.

    Counter-based random bits (Philox, advanced to the row) become normal by Box-Muller.

    Args:
        dim: columns of the table; None where the shard has them all.
    """
    columns = shard.rows.shape[1]
    blocks = -(-(dim or columns) // 4)  # a Philox counter gives four 64-bit numbers
    here = slice(shard.first_column, shard.first_column + columns)
    rows_at_a_time = max(1, _NUMBERS_AT_A_TIME // (4 * blocks))
    for start in range(0, len(shard.rows), rows_at_a_time):
        chunk = shard.rows[start : start + rows_at_a_time]
        bits = np.random.Philox(key=[seed, 0x7461626C65 + table]).advance(
            (shard.first + start) * blocks
        )
        raw = bits.random_raw(len(chunk) * blocks * 4).reshape(len(chunk), -1)[:, here]
        radius = np.sqrt(-2.0 * np.log(((raw >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32))
        angle = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
        with torch.no_grad():
            chunk.copy_(torch.from_numpy(std * radius * np.cos(angle)))
