"""Converts plans of TorchRec to `ModelPlan` and back, and lists the tables that a plan covers."""

from collections.abc import Iterable

from torch import nn
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection

from torchrec_priors.embedding.plan import ModelPlan, ModelTable, Piece, TablePlan
from torchrec_priors.errors import UserError


def tables_of(model: nn.Module) -> list[ModelTable]:
    """Returns the tables of a model before it is sharded."""
    tables: dict[str, ModelTable] = {}
    for path, module in model.named_modules():
        if isinstance(module, EmbeddingCollection):
            configs = module.embedding_configs()
            blocks = {}
        elif isinstance(module, ManagedCollisionEmbeddingCollection):
            configs = module._embedding_module.embedding_configs()
            blocks = module._managed_collision_collection.table_to_number_buckets()
        else:
            continue

        for config in configs:
            rows = config.num_embeddings
            columns = config.embedding_dim
            block = rows // blocks[config.name] if config.name in blocks else 0
            # A managed module contains a plain module of the same table. The managed one comes
            # first and is kept.
            tables.setdefault(config.name, ModelTable(config.name, path, rows, columns, block))
    return list(tables.values())


def from_torchrec(plan: ShardingPlan, tables: Iterable[ModelTable], ranks: int) -> ModelPlan:
    """Converts a plan of TorchRec.

    Args:
        plan: TorchRec's plan.
        tables: the tables of the model.
        ranks: number of ranks.

    Raises:
        UserError: the plan lacks a table or some values of a table.
    """
    table_plans = []
    for table in tables:
        sharding = (plan.plan.get(table.module) or {}).get(table.name)
        if sharding is None:
            raise UserError(f"the sharding plan does not cover table '{table.name}'")

        pieces = [
            Piece(shard.placement.rank(), *_interleaved(shard.shard_offsets, shard.shard_sizes))
            for shard in sharding.sharding_spec.shards
        ]

        cache = sharding.cache_params
        table_plans.append(
            TablePlan(
                table,
                sharding.sharding_type,
                sharding.compute_kernel,
                pieces,
                None if cache is None else cache.load_factor,
            )
        )

    model_plan = ModelPlan(ranks, table_plans)
    model_plan.check(tables, "the sharding plan")
    return model_plan


def to_torchrec(
    model_plan: ModelPlan,
    tables: Iterable[ModelTable],
    device: str,
    local_ranks: int,
    *,
    prefetch: bool = False,
) -> ShardingPlan:
    """Converts a plan to TorchRec's form.

    Args:
        model_plan: the plan.
        tables: the tables of the model.
        device: type of the ranks' devices.
        local_ranks: number of ranks on a machine.
        prefetch: whether rows are loaded into GPU caches before their step. The caches must
            then keep them until the step.
    """
    modules: dict[str, EmbeddingModuleShardingPlan] = {}
    for table in tables:
        plan = model_plan[table.name]
        shards = [
            ShardMetadata(
                shard_offsets=[piece.first_row, piece.first_column],
                shard_sizes=[piece.rows, piece.columns],
                placement=placement(device, piece.rank, local_ranks),
            )
            for piece in plan.pieces
        ]

        # If neither is set, TorchRec uses its defaults for a cache.
        factor = plan.cache_load_factor
        ahead = prefetch and plan.cached
        cache_params = None
        if ahead or factor is not None:
            cache_params = CacheParams(load_factor=factor, prefetch_pipeline=ahead or None)

        module_plan = modules.setdefault(table.module, EmbeddingModuleShardingPlan())
        module_plan[table.name] = ParameterSharding(
            sharding_type=plan.type,
            compute_kernel=plan.kernel,
            ranks=[piece.rank for piece in plan.pieces],
            sharding_spec=EnumerableShardingSpec(shards),
            cache_params=cache_params,
        )
    return ShardingPlan(plan=dict(modules))


def _interleaved(offsets: list[int], sizes: list[int]) -> tuple[int, int, int, int]:
    """Returns (first row, rows, first column, columns) of a shard."""
    return offsets[0], sizes[0], offsets[1], sizes[1]
