"""A request to TorchRec's planner, and what it answers: shards, memory and time of every rank."""

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
from torchrec_priors.embedding.plan import ModelTable as Described
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

_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Time:
    """Seconds of a step on a rank, as TorchRec estimates them for the tables alone.

    Attributes:
        lookup: reading rows, forward.
        vectors: sending them to the ranks that asked.
        gradients: sending theirs back, and putting them in order.
        update: backward in the tables, with the fused optimizer.
    """

    lookup: float = 0.0
    vectors: float = 0.0
    gradients: float = 0.0
    update: float = 0.0

    @property
    def step(self) -> float:
        return self.lookup + self.vectors + self.gradients + self.update

    def __add__(self, other: "Time") -> "Time":
        return Time(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True)
class PlannedShard:
    """A block of a table on a rank."""

    rank: int
    rows: int
    columns: int
    first_row: int
    first_column: int


@dataclass(frozen=True)
class PlannedTable:
    """How a table is sharded."""

    name: str
    rows: int
    dim: int
    sharding: str
    kernel: str
    shards: tuple[PlannedShard, ...]


@dataclass(frozen=True)
class TablesOnRanks:
    """The planner's answer.

    Attributes:
        memory_W, time_W: of every rank.
    """

    request: Request
    tables: tuple[PlannedTable, ...]
    memory_W: tuple[Memory, ...]
    time_W: tuple[Time, ...]

    @property
    def fullest(self) -> Memory:
        """Memory of the rank that needs most."""
        return max(self.memory_W, key=lambda memory: (memory.used, memory.host))

    @property
    def slowest(self) -> Time:
        """Time of the rank that the others wait for."""
        return max(self.time_W, key=lambda time: time.step)

    @property
    def device_seconds(self) -> float:
        """Cost of a step: its time on all ranks together."""
        return self.slowest.step * self.request.ranks

    @property
    def seconds_per_million(self) -> float:
        """Cost of a million windows, likewise."""
        return self.device_seconds / self.request.windows * 1e6


class DoesNotFit(Exception):  # noqa: N818 - an answer rather than an error
    """The tables need more memory than there is; the message says which, and how many bytes against how many.

    Attributes:
        needed: the plan that memory without end would allow.
    """

    def __init__(self, needed: TablesOnRanks) -> None:
        self.needed = needed
        super().__init__(_lack(needed))


def plan(request: Request) -> TablesOnRanks:
    """The planner's best plan.

    Raises:
        DoesNotFit: there is none in this memory.
        UserError: there is none for another reason.
    """
    request.check()
    try:
        return _ask(request)
    except PlannerError as error:
        endless = replace(request.machine, memory=_UNLIMITED, host_memory=_UNLIMITED)
        try:
            needed = _ask(replace(request, machine=endless, reserve=0.0))
        except PlannerError:
            raise UserError(
                f"{request.describe()}: no plan: {' '.join(str(error).split())[:200]}"
            ) from error
        memory_W = tuple(
            replace(memory, reserved=request.reserved_bytes) for memory in needed.memory_W
        )
        raise DoesNotFit(replace(needed, request=request, memory_W=memory_W)) from error


def _ask(request: Request) -> TablesOnRanks:
    tables = table_of(
        [
            EmbeddingConfig(
                name=table.name,
                num_embeddings=table.rows,
                embedding_dim=table.dim,
                feature_names=[table.name],
                data_type=DataType.FP16 if request.rows == "fp16" else DataType.FP32,
            )
            for table in request.tables
        ]
    )
    apply_optimizer_in_backward(
        OPTIMIZER_CLASSES[request.optimizer], tables.parameters(), {"lr": 0.0}
    )
    device = request.machine.device
    constraints = {
        table.name: constraints_of(
            Described(table.name, "tables", table.rows, table.dim, block=int(table.managed)),
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
        nn.ModuleDict({"tables": tables}), [sharder_of(request.sharding, torch.device(device))]
    )
    assert planner._best_plan is not None
    return _answer(request, planner._best_plan)


def _answer(request: Request, options: list[ShardingOption]) -> TablesOnRanks:
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
            milliseconds = (perf.fwd_compute, perf.fwd_comms, perf.bwd_comms, perf.bwd_compute)
            time_W[shard.rank] += Time(*(part / 1000 for part in milliseconds))
    by_name = {option.name: option for option in options}
    return TablesOnRanks(
        request=request,
        tables=tuple(_table(by_name[table.name]) for table in request.tables),
        memory_W=tuple(memory_W),
        time_W=tuple(time_W),
    )


def _table(option: ShardingOption) -> PlannedTable:
    rows, dim = option.tensor.shape
    shards = [PlannedShard(shard.rank, *shard.size, *shard.offset) for shard in option.shards]
    return PlannedTable(
        option.name, rows, dim, option.sharding_type, option.compute_kernel, tuple(shards)
    )


def _lack(needed: TablesOnRanks) -> str:
    request = needed.request
    memory = needed.fullest
    machine = request.machine
    largest = max(needed.tables, key=lambda table: table.rows * table.dim)
    rank = needed.memory_W.index(memory)
    left = machine.memory - request.reserved_bytes - request.dense_bytes - request.activation_bytes
    wanted = memory.used - memory.dense - memory.activations
    activations = (
        f", {in_gb(request.activation_bytes)} of activations" if request.activations else ""
    )
    if left <= 0:
        return (
            f"{request.describe()} does not fit: of {in_gb(machine.memory)}, {in_gb(request.reserved_bytes)} are "
            f"reserved and the dense model, which every rank holds, needs {in_gb(request.dense_bytes)}"
            f"{activations}: nothing is left for table '{largest.name}'"
        )
    where = f"{request.describe()} does not fit: table '{largest.name}' ({largest.sharding}, {largest.kernel})"
    if wanted > left:
        return (
            f"{where} needs {in_gb(wanted)} on rank {rank} ({in_gb(memory.table)} of rows, "
            f"{in_gb(memory.optimizer)} of optimizer state, {in_gb(memory.buffers)} of ids and vectors) and there are "
            f"{in_gb(max(left, 0))} "
            f"({in_gb(machine.memory)} less {in_gb(request.reserved_bytes)} reserved{activations} "
            f"and {in_gb(request.dense_bytes)} of the dense model)"
        )
    return f"{where} needs {in_gb(memory.host)} of rank {rank}'s host memory and there are {in_gb(machine.host_memory)}"
