"""Asks TorchRec's planner, and returns pieces of tables, and memory and time of every rank.

Shapes: W ranks.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.types import PlannerError, ShardingOption
from torchrec.modules.embedding_configs import DataType, EmbeddingConfig

from torchrec_priors.embedding.distribute import constraints_of, sharder_of
from torchrec_priors.embedding.item_table import table_of
from torchrec_priors.embedding.plan import ModelTable, Piece, TablePlan
from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import in_gb
from torchrec_priors.planning.request import Request
from torchrec_priors.planning.storage import (
    OPTIMIZER_CLASSES,
    Memory,
    Reservation,
    StorageEstimator,
    memory_of,
)

_UNLIMITED = 1 << 60  # bytes
_MODULE = "tables"  # path of the tables in the module that is given to the planner


@dataclass(frozen=True)
class Time:
    """TorchRec's estimate of a rank's seconds in a step, only for the tables.

    Attributes:
        lookup: the time to read rows, in forward.
        vectors: the time to send the vectors to the ranks that need them.
        gradients: the time to send the gradients back and to sort them.
        update: the time of backward in the tables, with the fused optimizer.
    """

    lookup: float = 0.0
    vectors: float = 0.0
    gradients: float = 0.0
    update: float = 0.0

    @property
    def step(self) -> float:
        """The seconds of the whole step."""
        return self.lookup + self.vectors + self.gradients + self.update

    def __add__(self, other: "Time") -> "Time":
        return Time(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True)
class TablesOnRanks:
    """The planner's answer.

    Attributes:
        request: the request that was planned.
        tables: the plan of each table, in the order of the request.
        memory_W, time_W: memory and time of every rank.
    """

    request: Request
    tables: tuple[TablePlan, ...]
    memory_W: tuple[Memory, ...]
    time_W: tuple[Time, ...]

    @property
    def fullest(self) -> Memory:
        """The memory of the rank that needs most."""
        return max(self.memory_W, key=lambda memory: (memory.used, memory.host))

    @property
    def slowest(self) -> Time:
        """The time of the slowest rank, which the others wait for."""
        return max(self.time_W, key=lambda time: time.step)

    @property
    def device_seconds(self) -> float:
        """The cost of a step: its time, times the number of ranks."""
        return self.slowest.step * self.request.ranks

    @property
    def seconds_per_million(self) -> float:
        """The cost of a million windows: their time, times the number of ranks."""
        return self.device_seconds / self.request.windows * 1e6


class DoesNotFit(Exception):  # noqa: N818 - an answer rather than an error
    """The tables need more memory than is available. The message names the table and the bytes.

    Attributes:
        needed: the plan for unlimited memory.
    """

    def __init__(self, needed: TablesOnRanks) -> None:
        self.needed = needed
        super().__init__(_explain_lack(needed))


def plan(request: Request) -> TablesOnRanks:
    """Returns the planner's best plan for a request.

    Raises:
        DoesNotFit: no plan fits into the memory of the machine.
        UserError: no plan exists for another reason.
    """
    request.check()
    try:
        return _ask(request)
    except PlannerError as error:
        # The planner does not say how much memory is missing, so it is asked again without a limit.
        unlimited = replace(request.machine, memory=_UNLIMITED, host_memory=_UNLIMITED)
        try:
            needed = _ask(replace(request, machine=unlimited, reserve=0.0))
        except PlannerError:
            raise UserError(
                f"{request.describe()}: no plan: {' '.join(str(error).split())[:200]}"
            ) from error

        memory_W = tuple(
            replace(memory, reserved=request.reserved_bytes) for memory in needed.memory_W
        )
        raise DoesNotFit(replace(needed, request=request, memory_W=memory_W)) from error


def _ask(request: Request) -> TablesOnRanks:
    """Runs TorchRec's planner on the tables of a request, which are on the meta device."""
    data_type = DataType.FP16 if request.rows == "fp16" else DataType.FP32
    collection = table_of(
        [
            EmbeddingConfig(
                name=table.name,
                num_embeddings=request.rows_of(table),
                embedding_dim=table.dim,
                feature_names=[table.name],
                data_type=data_type,
            )
            for table in request.tables
        ]
    )
    # The parameters tell the planner which optimizer's state it has to count.
    apply_optimizer_in_backward(
        OPTIMIZER_CLASSES[request.optimizer], collection.parameters(), {"lr": 0.0}
    )

    device = request.machine.device
    model_tables = _model_tables(request)
    constraints = {
        table.name: constraints_of(
            model_tables[table.name],
            device,
            request.ranks,
            request.sharding,
            request.lookups(table),
        )
        for table in request.tables
    }
    topology = request.machine.topology(request.ranks)
    estimators = [
        EmbeddingPerfEstimatorFactory.create(
            DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraints
        ),
        StorageEstimator(topology, constraints, request.optimizer),
    ]
    # The planner multiplies the batch by the number of lookups of an example, so the batch is 1 and
    # an example has all lookups of a step.
    planner = EmbeddingShardingPlanner(
        topology,
        batch_size=1,
        constraints=constraints,
        enumerator=EmbeddingEnumerator(
            topology, batch_size=1, constraints=constraints, estimator=estimators
        ),
        storage_reservation=Reservation(
            request.dense_bytes + request.activation_bytes + request.reserved_bytes
        ),
        stats=[],
    )
    planner.plan(
        nn.ModuleDict({_MODULE: collection}), [sharder_of(request.sharding, torch.device(device))]
    )

    # The returned plan lacks memory and times. The options that the planner chose have them.
    assert planner._best_plan is not None
    return _answer(request, model_tables, planner._best_plan)


def _model_tables(request: Request) -> dict[str, ModelTable]:
    """Returns the tables of a request by name, in the form of a model's tables."""
    # A block of 1 row marks a managed table. The plan does not depend on the size of a block.
    return {
        table.name: ModelTable(
            table.name, _MODULE, request.rows_of(table), table.dim, block=int(table.managed)
        )
        for table in request.tables
    }


def _answer(
    request: Request, model_tables: dict[str, ModelTable], options: list[ShardingOption]
) -> TablesOnRanks:
    """Adds up memory and time of all pieces on each rank."""
    start = Memory(
        dense=request.dense_bytes,
        activations=request.activation_bytes,
        reserved=request.reserved_bytes,
    )
    memory_W = [start] * request.ranks
    time_W = [Time()] * request.ranks
    for option in options:
        for shard in option.shards:
            memory_W[shard.rank] += memory_of(
                option, shard.size, shard.storage, request.optimizer, request.machine.device
            )
            perf = shard.perf
            # A rank looks up one piece after another, so the times are added.
            milliseconds = (perf.fwd_compute, perf.fwd_comms, perf.bwd_comms, perf.bwd_compute)
            time_W[shard.rank] += Time(*(part / 1000 for part in milliseconds))

    # The planner may return the tables in another order.
    by_name = {option.name: option for option in options}
    return TablesOnRanks(
        request=request,
        tables=tuple(_table_plan(table, by_name[name]) for name, table in model_tables.items()),
        memory_W=tuple(memory_W),
        time_W=tuple(time_W),
    )


def _table_plan(table: ModelTable, option: ShardingOption) -> TablePlan:
    """Returns the plan of a table from the option that the planner chose."""
    pieces = [
        Piece(
            rank=shard.rank,
            first_row=shard.offset[0],
            rows=shard.size[0],
            first_column=shard.offset[1],
            columns=shard.size[1],
        )
        for shard in option.shards
    ]
    return TablePlan(table, option.sharding_type, option.compute_kernel, pieces)


def _explain_lack(needed: TablesOnRanks) -> str:
    """Names the largest table, the memory that is needed, and the memory that is left."""
    request = needed.request
    memory = needed.fullest
    machine = request.machine
    largest = max(needed.tables, key=lambda plan: plan.table.rows * plan.table.columns)
    name = largest.table.name
    rank = needed.memory_W.index(memory)

    # The dense model and its activations are on every rank. Tables get the rest of the memory.
    available = (
        machine.memory - request.reserved_bytes - request.dense_bytes - request.activation_bytes
    )
    wanted = memory.used - memory.dense - memory.activations
    activations = ""
    if request.activations:
        activations = f", {in_gb(request.activation_bytes)} of activations"

    if available <= 0:
        return (
            f"{request.describe()} does not fit: of {in_gb(machine.memory)}, "
            f"{in_gb(request.reserved_bytes)} are reserved and the dense model, which every rank "
            f"holds, needs {in_gb(request.dense_bytes)}{activations}: nothing is left for table "
            f"'{name}'"
        )

    where = f"{request.describe()} does not fit: table '{name}' ({largest.type}, {largest.kernel})"
    if wanted > available:
        return (
            f"{where} needs {in_gb(wanted)} on rank {rank} ({in_gb(memory.table)} of rows, "
            f"{in_gb(memory.optimizer)} of optimizer state, {in_gb(memory.buffers)} of ids and "
            f"vectors) and there are {in_gb(max(available, 0))} ({in_gb(machine.memory)} less "
            f"{in_gb(request.reserved_bytes)} reserved{activations} and "
            f"{in_gb(request.dense_bytes)} of the dense model)"
        )
    return (
        f"{where} needs {in_gb(memory.host)} of rank {rank}'s host memory and there are "
        f"{in_gb(machine.host_memory)}"
    )
