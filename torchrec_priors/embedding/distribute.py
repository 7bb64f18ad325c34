"""Shards a model's tables over all ranks, by a plan from TorchRec's planner or a saved plan."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.mc_embedding import ManagedCollisionEmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, TopologyFactory, TrainerConfig
from torchrec.distributed.types import CacheParams, ShardingEnv
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection

from torchrec_priors.embedding.empty_shards import let_empty_shards_answer
from torchrec_priors.embedding.plan import ModelPlan, ModelTable
from torchrec_priors.embedding.torchrec_plan import from_torchrec, tables_of, to_torchrec
from torchrec_priors.embedding.whole_rows import learn_as_whole_rows
from torchrec_priors.errors import UserError
from torchrec_priors.ranks.variables import read_launch
from torchrec_priors.settings.sharding import ROW_WISE, ShardingConfig

_LOOKUPS = 512  # by default, the number of ids that a rank looks up in a table per step


class _Enumerator(EmbeddingEnumerator):
    """Cuts managed tables where their blocks end, even if ranks get different numbers of blocks."""

    def _get_num_buckets(self, parameter: str, module: nn.Module) -> int | None:
        # TorchRec's method raises an error if ranks get different numbers of blocks.
        if isinstance(module, ManagedCollisionEmbeddingCollection):
            buckets: int = module._managed_collision_collection.table_to_number_buckets()[parameter]
            return buckets
        return None


def distribute(
    model: nn.Module,
    device: torch.device,
    sharding: ShardingConfig | None = None,
    lookups: int = _LOOKUPS,
    *,
    timeout: timedelta | None = None,
    prefetch: bool = False,
    not_averaged: list[str] | None = None,
) -> tuple[DistributedModelParallel, ModelPlan]:
    """Shards the model's tables over all ranks and replicates the rest (DDP).

    Args:
        model: the model.
        device: device of this rank.
        sharding: the section `sharding` of the configuration; None for its defaults.
        lookups: number of ids that a rank looks up in a table per step, for the planner.
        timeout: timeout of the groups of ranks that hold columns of the same table; None for
            torch's default.
        prefetch: as for `to_torchrec`.
        not_averaged: names of parameters whose gradients DDP does not average over ranks.

    Returns:
        The sharded model and its plan.

    Raises:
        UserError: the planner finds no plan, the given plan does not fit, or there are more ranks
            than blocks of a managed table; raised on every rank.
    """
    sharding = ShardingConfig() if sharding is None else sharding
    sharding.check_device(device.type)

    group = dist.group.WORLD
    assert group is not None
    world = dist.get_world_size()
    launch = read_launch()
    # The planner and TorchRec's devices need the number of ranks on this machine.
    local = world
    if launch is not None and launch.local_world is not None:
        local = launch.local_world

    # A managed table contains a plain table, so its sharder needs the sharder of plain tables.
    sharder = sharder_of(sharding, device)
    sharders = [sharder, ManagedCollisionEmbeddingCollectionSharder(ec_sharder=sharder)]
    tables = tables_of(model)
    _check_blocks(tables, world)

    def make_plan() -> ModelPlan:
        if sharding.plan:
            file = Path(sharding.plan)
            plan = ModelPlan.read(file)
            plan.check_fits(tables, world, device.type, f"sharding.plan: '{file}'")
            return plan
        planner = _planner(tables, device, sharding, lookups, local)
        return from_torchrec(planner.plan(model, sharders), tables, world)

    # Only rank 0 plans: a plan depends on the machine's memory, and machines may differ.
    plan = together(make_plan)
    wrapped = DistributedModelParallel(
        model,
        env=ShardingEnv(world, dist.get_rank(), group, output_dtensor=True),
        device=device,
        plan=to_torchrec(plan, tables, device.type, local, prefetch=prefetch),
        sharders=sharders,
        data_parallel_wrapper=DefaultDataParallelWrapper(
            static_graph=False, params_to_ignore=not_averaged
        ),
    )

    # Both functions change the kernels that sharding has created.
    let_empty_shards_answer(wrapped)
    learn_as_whole_rows(wrapped, plan, timeout)
    return wrapped, plan


def sharder_of(sharding: ShardingConfig, device: torch.device) -> EmbeddingCollectionSharder:
    """Returns TorchRec's sharder of plain tables, which also sets the precision of messages."""
    codecs = None
    if sharding.communication != "fp32":
        precision = CommType(sharding.communication)
        codecs = get_qcomm_codecs_registry(QCommsConfig(precision, precision), device=device)

    # FATAL: an id without a row raises an error; it is not read as row 0.
    return EmbeddingCollectionSharder(
        fused_params={"bounds_check_mode": BoundsCheckMode.FATAL}, qcomm_codecs_registry=codecs
    )


def together(make: Callable[[], ModelPlan]) -> ModelPlan:
    """Makes a plan on rank 0 and returns it on every rank.

    If rank 0 fails, every rank raises UserError; otherwise, the other ranks would wait forever.
    """
    answer: list[ModelPlan | str | None] = [None]
    if dist.get_rank() == 0:
        try:
            answer[0] = make()
        except UserError as error:
            answer[0] = str(error)
        except Exception as error:
            # The planner raises several kinds of errors. All must reach every rank.
            answer[0] = f"no sharding plan was found: {' '.join(str(error).split())[:300]}"
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(answer, src=0)

    plan = answer[0]
    if isinstance(plan, str):
        raise UserError(plan)
    assert plan is not None
    return plan


def _planner(
    tables: list[ModelTable],
    device: torch.device,
    sharding: ShardingConfig,
    lookups: int,
    local: int,
) -> EmbeddingShardingPlanner:
    """Returns TorchRec's planner for these tables on the ranks of this process group."""
    # The ranks on this machine share the memory of the host.
    world = dist.get_world_size()
    gpu_bytes = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    topology = TopologyFactory.create_topology(
        trainer_config=TrainerConfig(
            world_size=world,
            local_world_size=local,
            hbm_cap_bytes=gpu_bytes,
            ddr_cap_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // local,
        ),
        kernel_config=KernelConfig(compute_device=device.type),
    )

    constraints = {
        table.name: constraints_of(table, device.type, world, sharding, lookups) for table in tables
    }
    # The batch size is 1, because `constraints_of` passes the lookups of a whole step as the
    # pooling factor of one example.
    return EmbeddingShardingPlanner(
        topology,
        batch_size=1,
        constraints=constraints,
        enumerator=_Enumerator(topology, batch_size=1, constraints=constraints),
        storage_reservation=FixedPercentageStorageReservation(0.1),
    )


def constraints_of(
    table: ModelTable, device: str, ranks: int, sharding: ShardingConfig, lookups: int
) -> ParameterConstraints:
    """Returns the options from which the planner may choose for a table.

    Args:
        table: the table.
        device: type of the ranks' devices.
        ranks: number of ranks.
        sharding: the section `sharding` of the configuration.
        lookups: number of ids of the table that a rank looks up in a step.
    """
    options: dict[str, Any] = {
        "sharding_types": sharding.types_of(table.name),
        "compute_kernels": sharding.kernels_of(table.name),
    }
    # A managed table is cut where its blocks of rows end, so it can only be cut row-wise.
    if table.block:
        options = {"sharding_types": [ROW_WISE], "compute_kernels": ["fused"]}
    elif device != "cpu" and options["compute_kernels"] in (None, ["fused_uvm_caching"]):
        options["cache_params"] = CacheParams(load_factor=sharding.load_factor_of(table.name))

    # Without `columns`, shards are so wide that a rank has at most one shard of a table.
    return ParameterConstraints(
        **options,
        min_partition=sharding.columns or -(-table.columns // ranks),
        pooling_factors=[float(lookups)],
    )


def _check_blocks(tables: list[ModelTable], world: int) -> None:
    """Raises UserError if a managed table has fewer blocks than there are ranks."""
    for table in tables:
        if table.block and table.rows // table.block < world:
            raise UserError(
                f"embedding.blocks = {table.rows // table.block}: a managed table needs at least "
                f"one block per rank, but there are {world} ranks: use fewer ranks, or train with "
                "more blocks"
            )
