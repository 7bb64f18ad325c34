"""What is to be planned: tables, how much of them a step reads, the machines and their number."""

from dataclasses import dataclass, field, replace
from typing import Any

from torchrec_priors.common.amounts import as_text
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.planning.activations import Activations
from torchrec_priors.planning.counts import short
from torchrec_priors.planning.machines import Machine
from torchrec_priors.settings.sharding import ShardingConfig

OPTIMIZERS = ("rowwise-adagrad", "sgd", "adagrad", "adam")
ROWS = {"fp32": 4, "fp16": 2}  # bytes of a number

MOST_RANKS = 8_192
_MOST_BYTES = 1 << 58  # of a table: more would overflow what the planner adds up

_DENSE_COPIES = 4  # value, gradient (DDP's buckets are the gradients) and AdamW's two moments
_DENSE_NUMBER = 4  # bytes


@dataclass(frozen=True)
class RequestedTable:
    """One table.

    Attributes:
        name: name of the table.
        rows, dim: number and width of its rows.
        per_window: number of ids that a window looks up in it, at most.
        per_step: number of further ids of a step, over all ranks (negatives).
        managed: whether TorchRec manages its rows, so it is cut where their blocks end.
    """

    name: str
    rows: int
    dim: int
    per_window: int
    per_step: int = 0
    managed: bool = False


@dataclass(frozen=True)
class Request:
    """One question to the planner.

    Attributes:
        tables: the item table first.
        ranks: number of ranks, over all nodes.
        machine: what each rank has.
        batch: windows of a rank and step; 0 if `global_batch` is given.
        global_batch: windows of a step over all ranks.
        optimizer: optimizer of the tables, fused into backward.
        rows: `fp32` or `fp16`.
        sharding: settings of a run.
        dense: number of parameters of the dense model, which every rank holds.
        activations: what else a step keeps; None if that is not counted.
        reserve: share of a device's memory for what is not counted, such as the allocator and CUDA.
    """

    tables: tuple[RequestedTable, ...]
    ranks: int
    machine: Machine
    batch: int = 0
    global_batch: int = 0
    optimizer: str = "rowwise-adagrad"
    rows: str = "fp32"
    sharding: ShardingConfig = field(default_factory=lambda: ShardingConfig(kernel="fused"))
    dense: int = 0
    activations: Activations | None = None
    reserve: float = 0.15

    @property
    def local_batch(self) -> int:
        """Windows of the fullest rank."""
        return self.batch or -(-self.global_batch // self.ranks)

    @property
    def windows(self) -> int:
        """Windows of a step over all ranks."""
        return self.global_batch or self.batch * self.ranks

    @property
    def items(self) -> int:
        return self.tables[0].rows

    @property
    def dim(self) -> int:
        return self.tables[0].dim

    @property
    def dense_bytes(self) -> int:
        return self.dense * _DENSE_COPIES * _DENSE_NUMBER

    @property
    def activation_bytes(self) -> int:
        """Bytes of the fullest rank."""
        if self.activations is None:
            return 0
        negatives = self.tables[0].per_step
        device = self.machine.device
        return self.activations.bytes(
            self.local_batch, self.dim, negatives, ranks=self.ranks, device=device
        )

    @property
    def reserved_bytes(self) -> int:
        return int(self.machine.memory * self.reserve)

    def lookups(self, table: RequestedTable) -> int:
        """Returns the number of ids that a rank looks up in a step, at most."""
        return self.local_batch * table.per_window + -(-table.per_step // self.ranks)

    def with_items(self, items: int) -> "Request":
        return replace(self, tables=(replace(self.tables[0], rows=items), *self.tables[1:]))

    def with_dim(self, dim: int) -> "Request":
        return replace(self, tables=tuple(replace(table, dim=dim) for table in self.tables))

    def with_activations(self, **changes: Any) -> "Request":
        """Returns the request with other values in `activations`, which must not be None."""
        assert self.activations is not None
        return replace(self, activations=replace(self.activations, **changes))

    def describe(self) -> str:
        """Returns the request in short, e.g. `1B x 256 on 64 h200`."""
        return f"{short(self.items)} x {self.dim} on {self.ranks} {self.machine.name}"

    def check(self) -> None:
        """Raises UserError if a value is out of its range or two do not go together."""
        for option, value, known in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--rows", self.rows, tuple(ROWS)),
        ):
            if value not in known:
                raise UserError(f"{option}: there is no '{value}': {nearest(value, known)}")
        self._check_sizes()

        if not 0 <= self.reserve < 1:
            raise UserError(f"--reserve must be in [0, 1), not {self.reserve}")
        if self.machine.device == "cpu" and self.optimizer == "adam":
            raise UserError(
                "--optimizer adam: FBGEMM has no fused Adam on CPUs: take rowwise-adagrad"
            )

        if self.sharding.plan:
            raise UserError(
                "sharding.plan is carried out as it was written: leave it out to make another plan"
            )
        self.sharding.check()
        managed = next((table.name for table in self.tables if table.managed), None)
        self.sharding.check_tables([table.name for table in self.tables], self.dim, managed)
        self.sharding.check_device(self.machine.device)

        per_node = self.machine.ranks_per_node
        if self.ranks > per_node and self.ranks % per_node:
            whole = -(-self.ranks // per_node) * per_node
            raise UserError(
                f"--ranks {self.ranks} is no multiple of {per_node} ranks a node: take {whole}, or "
                "set --ranks-per-node"
            )

    def _check_sizes(self) -> None:
        if self.dim < 4 or self.dim % 4:
            raise UserError(
                f"--dim must be a positive multiple of 4 (FBGEMM's kernels), not {self.dim}"
            )
        if self.ranks > MOST_RANKS:
            raise UserError(f"--ranks must be at most {MOST_RANKS:,}, not {self.ranks:,}")
        if self.items * self.dim * ROWS["fp32"] > _MOST_BYTES:
            raise UserError(
                f"--items: {self.items:,} rows of width {self.dim} are more than can be planned"
            )

        # In fp32, which is the most that a number can take.
        looked_up = max(self.lookups(table) * table.dim for table in self.tables) * ROWS["fp32"]
        if looked_up > _MOST_BYTES:
            raise UserError(
                f"a step looks up {as_text(looked_up)} of vectors a rank, more than can be "
                "planned: give a smaller batch, context or number of negatives"
            )
