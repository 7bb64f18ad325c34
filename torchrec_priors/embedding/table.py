"""The item table as a row-wise sharded TorchRec `EmbeddingCollection` with a fused row-wise optimizer.

Rows are initialised from their ids, so that the table is the same on any number of ranks.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torch.distributed.tensor import DTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.mc_embedding import ManagedCollisionEmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.constants import BATCH_SIZE
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.optim import RowWiseAdagrad

from torchrec_priors.errors import UserError
from torchrec_priors.splitmix import GOLDEN, mix

TABLE = "item"
FEATURE = "item"

_ROWS_AT_A_TIME = 1 << 16


@dataclass
class TableConfig:
    """The item table.

    Attributes:
        learning_rate: of the fused row-wise Adagrad, at its peak.
        init_std: standard deviation of the first values.
    """

    learning_rate: float = 0.05
    init_std: float = 0.02

    def check(self) -> None:
        if self.learning_rate < 0 or self.init_std < 0:
            raise UserError("table.learning_rate and table.init_std must not be negative")


def item_table(items: int, dim: int) -> EmbeddingCollection:
    """The table of `items` rows on the meta device; `initialise_rows` or a checkpoint gives them their values."""
    return table_of([EmbeddingConfig(name=TABLE, num_embeddings=items, embedding_dim=dim, feature_names=[FEATURE])])


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
    """The rows of the table that a rank holds: a live view of [rows, d], and the number of its first row."""

    rows: Tensor
    first: int

    @property
    def last(self) -> int:
        """One past the last row."""
        return self.first + len(self.rows)


class _Enumerator(EmbeddingEnumerator):
    """Cuts managed tables where their blocks end, also where ranks get different numbers of blocks."""

    def _get_num_buckets(self, parameter: str, module: nn.Module) -> int | None:
        if isinstance(module, ManagedCollisionEmbeddingCollection):
            buckets: int = module._managed_collision_collection.table_to_number_buckets()[parameter]
            return buckets
        return None


def distribute(model: nn.Module, device: torch.device) -> tuple[DistributedModelParallel, ShardingPlan]:
    """Shards the model's table over all ranks and replicates the rest (DDP).

    Raises:
        UserError: the planner finds no plan, or there are more ranks than blocks; raised on every rank.
    """
    group = dist.group.WORLD
    world = dist.get_world_size()
    sharder = EmbeddingCollectionSharder(fused_params={"bounds_check_mode": BoundsCheckMode.FATAL})
    topology = TopologyFactory.create_topology(
        trainer_config=TrainerConfig(world_size=world, local_world_size=world),
        kernel_config=KernelConfig(compute_device=device.type),
    )
    constraints = {
        name: ParameterConstraints(sharding_types=["row_wise"], compute_kernels=kernels)
        for name, kernels in _tables(model).items()
    }
    planner = EmbeddingShardingPlanner(
        topology,
        constraints=constraints,
        enumerator=_Enumerator(topology, batch_size=BATCH_SIZE, constraints=constraints),
        storage_reservation=FixedPercentageStorageReservation(0.1),
    )
    sharders = [sharder, ManagedCollisionEmbeddingCollectionSharder(ec_sharder=sharder)]
    _check_blocks(model, world)
    plan = _plan_together(planner, model, sharders)
    assert group is not None
    wrapped = DistributedModelParallel(
        model,
        env=ShardingEnv(world, dist.get_rank(), group, output_dtensor=True),
        device=device,
        plan=plan,
        sharders=sharders,
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    return wrapped, plan


def _tables(model: nn.Module) -> dict[str, list[str] | None]:
    """Names of all tables, and the kernels that the planner may take; None for any."""
    found: dict[str, list[str] | None] = {}
    for module in model.modules():
        if isinstance(module, EmbeddingCollection):
            for config in module.embedding_configs():
                found.setdefault(config.name, None)
        elif isinstance(module, ManagedCollisionEmbeddingCollection):
            found |= {config.name: ["fused"] for config in module._embedding_module.embedding_configs()}
    return found


def _check_blocks(model: nn.Module, world: int) -> None:
    for module in model.modules():
        if isinstance(module, ManagedCollisionEmbeddingCollection):
            blocks = min(module._managed_collision_collection.table_to_number_buckets().values())
            if blocks < world:
                raise UserError(
                    f"embedding.blocks = {blocks}: a managed table goes on at most so many ranks, not on {world}: "
                    "use fewer, or train with more blocks"
                )


def _plan_together(planner: EmbeddingShardingPlanner, model: nn.Module, sharders: list[Any]) -> ShardingPlan:
    """Rank 0's plan on every rank; its failure on every rank too, instead of a hang."""
    answer: list[ShardingPlan | str | None] = [None]
    if dist.get_rank() == 0:
        try:
            answer[0] = planner.plan(model, sharders)
        except Exception as error:  # the planner raises its own kinds, all of which must reach every rank
            answer[0] = f"no sharding plan was found: {' '.join(str(error).split())[:300]}"
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(answer, src=0)
    plan = answer[0]
    if isinstance(plan, str):
        raise UserError(plan)
    assert plan is not None
    return plan


def own_shards(model: nn.Module, dim: int) -> dict[str, Shard]:
    """This rank's rows of every table, by the table's name; a rank of a tiny table may hold none."""
    found = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, DTensor):  # tables alone are sharded
            continue
        table = name.removesuffix(".weight").rpartition("embeddings.")[2]
        local: Any = tensor.to_local()
        shards, offsets = local.local_shards(), local.local_offsets()
        assert len(shards) <= 1, "row-wise shards are one block a rank"
        found[table] = Shard(shards[0], int(offsets[0][0])) if shards else Shard(torch.empty(0, dim), tensor.shape[0])
    return found


def first_values(item_N: np.ndarray, dim: int, seed: int, std: float) -> Tensor:
    """[N, d] normal numbers that depend on (seed, row id of the item, column) alone: of rows that items are given late,
    in any order (splitmix64, Box-Muller)."""
    start = mix(np.array([seed ^ 0x6C617465], np.uint64) + GOLDEN)
    cell_Nd = mix(item_N.astype(np.uint64)[:, None] * GOLDEN + start) + np.arange(dim, dtype=np.uint64) * GOLDEN
    bits = mix(cell_Nd + GOLDEN)
    radius = np.sqrt(-2.0 * np.log(((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32))
    angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
    return torch.from_numpy(std * radius * np.cos(angle)).float()


def initialise_rows(shard: Shard, seed: int, std: float, table: int = 0) -> None:
    """Fills the shard with normal numbers that depend on (seed, number of the table, row id, column) alone.

    Counter-based random bits (Philox, advanced to the row) become normal by Box-Muller.
    """
    blocks = -(-shard.rows.shape[1] // 4)  # a Philox counter gives four 64-bit numbers
    for start in range(0, len(shard.rows), _ROWS_AT_A_TIME):
        chunk = shard.rows[start : start + _ROWS_AT_A_TIME]
        bits = np.random.Philox(key=[seed, 0x7461626C65 + table]).advance((shard.first + start) * blocks)
        raw = bits.random_raw(len(chunk) * blocks * 4).reshape(len(chunk), -1)[:, : chunk.shape[1]]
        radius = np.sqrt(-2.0 * np.log(((raw >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32))
        angle = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
        with torch.no_grad():
            chunk.copy_(torch.from_numpy(std * radius * np.cos(angle)))
