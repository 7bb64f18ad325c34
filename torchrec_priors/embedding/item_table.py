"""The item table as a TorchRec `EmbeddingCollection` with a fused row-wise optimizer.

Initial values depend only on row ids, so the table is the same for any number of ranks and any
sharding.
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


@dataclass(frozen=True)
class Shard:
    """A part of a table on this rank.

    Attributes:
        rows: the values, [rows, d] or some columns of them.
        first: index of the first row in the table.
        first_column: index of the first column in the table.
    """

    rows: Tensor
    first: int
    first_column: int = 0

    @property
    def last(self) -> int:
        """One past the last row."""
        return self.first + len(self.rows)


def item_table(items: int, dim: int) -> EmbeddingCollection:
    """Returns a table of `items` rows on the meta device, where it takes no memory.

    After sharding, `initialise_rows` or a checkpoint fills it.
    """
    config = EmbeddingConfig(
        name=TABLE, num_embeddings=items, embedding_dim=dim, feature_names=[FEATURE]
    )
    return table_of([config])


def table_of(configs: list[EmbeddingConfig]) -> EmbeddingCollection:
    """Returns tables on the meta device, which TorchRec does not fill with random values."""
    # Whole tables may be larger than the memory of a rank, so they are on the meta device.
    configs = [dataclasses.replace(config, init_fn=_keep_values) for config in configs]
    return EmbeddingCollection(device=torch.device("meta"), tables=configs)


def fuse_optimizer(table: EmbeddingCollection, learning_rate: float) -> None:
    """Makes row-wise Adagrad update the table inside backward."""
    apply_optimizer_in_backward(RowWiseAdagrad, table.parameters(), {"lr": learning_rate})


def first_values(item_N: np.ndarray, dim: int, seed: int, std: float) -> Tensor:
    """Returns normal numbers, [N, d], that depend only on (seed, row id of the item, column).

    They are for rows that items get during training, in any order (splitmix64, Box-Muller).
    """
    # The constant ("late") distinguishes these numbers from other uses of the seed.
    start = mix(np.array([seed ^ 0x6C617465], np.uint64) + GOLDEN)
    cell_Nd = (
        mix(item_N.astype(np.uint64)[:, None] * GOLDEN + start)
        + np.arange(dim, dtype=np.uint64) * GOLDEN
    )
    return torch.from_numpy(_normal(mix(cell_Nd + GOLDEN), std)).float()


def initialise_rows(
    shard: Shard, seed: int, std: float, table: int = 0, dim: int | None = None
) -> None:
    """Fills a shard with normal numbers that depend only on (seed, table, row id, column).

    Counter-based random bits (Philox, advanced to the row) become normal numbers by Box-Muller.

    Args:
        shard: a shard of the table.
        seed: seed of the run.
        std: standard deviation.
        table: index of the table.
        dim: columns of the table; None if the shard has them all.
    """
    columns = shard.rows.shape[1]
    blocks = -(-(dim or columns) // 4)  # a Philox counter gives four 64-bit numbers
    own_columns = slice(shard.first_column, shard.first_column + columns)

    # Bits are drawn for all columns of a row, so a shard of columns gets its part of the whole
    # table's bits.
    rows_at_a_time = max(1, _NUMBERS_AT_A_TIME // (4 * blocks))
    for start in range(0, len(shard.rows), rows_at_a_time):
        chunk = shard.rows[start : start + rows_at_a_time]
        bits = np.random.Philox(key=[seed, 0x7461626C65 + table]).advance(
            (shard.first + start) * blocks
        )
        raw = bits.random_raw(len(chunk) * blocks * 4).reshape(len(chunk), -1)[:, own_columns]
        with torch.no_grad():
            chunk.copy_(torch.from_numpy(_normal(raw, std)))


def _keep_values(rows: Tensor) -> Tensor:
    """An `init_fn` that does nothing: TorchRec's random values would be overwritten anyway."""
    return rows


def _normal(bits: np.ndarray, std: float) -> np.ndarray:
    """Turns 64-bit numbers into normal float64 numbers (Box-Muller).

    The upper half of the bits gives the radius, and the lower half the angle.
    """
    # Half a step is added, because the logarithm of 0 is infinite.
    radius = np.sqrt(-2.0 * np.log(((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32))
    angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
    numbers: np.ndarray = std * radius * np.cos(angle)
    return numbers
