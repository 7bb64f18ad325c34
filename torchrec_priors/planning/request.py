"""A request to the planner: tables, the lookups of a step, machines, and the number of ranks."""

from dataclasses import dataclass, field, replace
from typing import Any

from torchrec_priors.common.amounts import as_text
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.planning.activations import Activations
from torchrec_priors.planning.counts import short
from torchrec_priors.planning.language import LanguageModel, activation_bytes
from torchrec_priors.planning.machines import Machine
from torchrec_priors.settings.sharding import ShardingConfig

OPTIMIZERS = ("rowwise-adagrad", "sgd", "adagrad", "adam")
ROWS = {"fp32": 4, "fp16": 2}  # bytes of a number

MOST_RANKS = 8_192
_MOST_BYTES = 1 << 58  # of a table; with more, the planner's sums would overflow

_DENSE_COPIES = 4  # value, gradient (DDP stores gradients in its buckets), AdamW's two moments
_DENSE_NUMBER = 4  # bytes of a number


@dataclass(frozen=True)
class RequestedTable:
    """One table of a request.

    Attributes:
        name: the name of the table.
        rows, dim: the number and the width of its rows.
        per_window: the largest number of ids that a window looks up in it.
        per_step: the number of other ids of a step (negatives), over all ranks.
        managed: whether TorchRec manages its rows. Such a table is divided only between blocks.
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
        tables: the tables; the item table is the first.
        ranks: the number of ranks, over all nodes.
        machine: the hardware of each rank.
        batch: the number of windows of a rank in a step; 0 if `global_batch` is given.
        global_batch: the number of windows of a step, over all ranks.
        optimizer: the optimizer of the tables, which is fused into backward.
        rows: the precision of the rows, `fp32` or `fp16`.
        sharding: the sharding settings of a run.
        dense: the number of parameters of the dense model without language models, of which every
            rank has a copy.
        content: the width of the content of items, of which every rank has a copy; 0 without.
        has_rows: whether items have rows in the item table (`embedding.ids`).
        language: the language models. Every rank has a copy, or a part if they are divided
            (`sharding.language_models`).
        activations: describes the activations of a step; None if they are not counted.
        reserve: the share of a device's memory that is kept free, for example for the allocator and
            CUDA.
        share_of_peak: the share of a device's peak of operations that language models reach.
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
    content: int = 0
    has_rows: bool = True
    language: tuple[LanguageModel, ...] = ()
    activations: Activations | None = None
    reserve: float = 0.15
    share_of_peak: float = 0.4

    @property
    def local_batch(self) -> int:
        """The number of windows of the rank that has most of them."""
        return self.batch or -(-self.global_batch // self.ranks)

    @property
    def windows(self) -> int:
        """The number of windows of a step, over all ranks."""
        return self.global_batch or self.batch * self.ranks

    @property
    def items(self) -> int:
        """The number of rows of the item table."""
        return self.tables[0].rows

    @property
    def dim(self) -> int:
        """The width of the rows."""
        return self.tables[0].dim

    @property
    def dense_bytes(self) -> int:
        """The bytes of the dense model, with gradients, optimizer state and content of items."""
        of_language = sum(model.parameter_bytes for model in self.language)
        if self.sharding.language_models:
            # One layer of the largest model is whole while it computes, with its gradient.
            layer = max((8 * model.of_layers // model.layers for model in self.language), default=0)
            of_language = -(-of_language // self.ranks) + layer
        of_content = self.items * self.content * _DENSE_NUMBER
        return self.dense * _DENSE_COPIES * _DENSE_NUMBER + of_language + of_content

    @property
    def activation_bytes(self) -> int:
        """The bytes of activations on the rank that has most windows."""
        of_language = activation_bytes(self.language, self.local_batch, self.ranks)
        if self.activations is None:
            return of_language
        negatives = self.tables[0].per_step
        device = self.machine.device
        return of_language + self.activations.bytes(
            self.local_batch, self.dim, negatives, ranks=self.ranks, device=device
        )

    def language_seconds(self, model: LanguageModel) -> float | None:
        """Returns the seconds of a language model in a step; None if the peak is not known."""
        peak = self.machine.peak(model.precision)
        if not peak:
            return None
        return model.operations(model.tokens(self.local_batch, self.ranks)) / (
            peak * self.share_of_peak
        )

    @property
    def reserved_bytes(self) -> int:
        """The bytes of a device that are kept free."""
        return int(self.machine.memory * self.reserve)

    def lookups(self, table: RequestedTable) -> int:
        """Returns the largest number of ids that a rank looks up in a step."""
        return self.local_batch * table.per_window + -(-table.per_step // self.ranks)

    def rows_of(self, table: RequestedTable) -> int:
        """Returns the number of rows that a table has in a run."""
        # A table has at least one row, even if no item uses it.
        return table.rows if self.has_rows or table is not self.tables[0] else 1

    def with_items(self, items: int) -> "Request":
        """Returns the request with another number of items."""
        return replace(self, tables=(replace(self.tables[0], rows=items), *self.tables[1:]))

    def with_dim(self, dim: int) -> "Request":
        """Returns the request with another width of all tables."""
        return replace(self, tables=tuple(replace(table, dim=dim) for table in self.tables))

    def with_activations(self, **changes: Any) -> "Request":
        """Returns the request with changes in `activations`, which must not be None."""
        assert self.activations is not None
        return replace(self, activations=replace(self.activations, **changes))

    def describe(self) -> str:
        """Describes the request in short, for example `1B x 256 on 64 h200`."""
        return f"{short(self.items)} x {self.dim} on {self.ranks} {self.machine.name}"

    def check(self) -> None:
        """Raises UserError if a value is out of range, or two values contradict each other."""
        for option, value, known in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--rows", self.rows, tuple(ROWS)),
        ):
            if value not in known:
                raise UserError(f"{option}: there is no '{value}': {nearest(value, known)}")
        self._check_sizes()

        if not 0 <= self.reserve < 1:
            raise UserError(f"--reserve must be in [0, 1), not {self.reserve}")
        if not 0 < self.share_of_peak <= 1:
            raise UserError(f"--share-of-peak must be in (0, 1], not {self.share_of_peak}")
        if self.machine.device == "cpu" and self.optimizer == "adam":
            raise UserError(
                "--optimizer adam: FBGEMM has no fused Adam on CPUs: take rowwise-adagrad"
            )

        if self.sharding.plan:
            raise UserError(
                "sharding.plan is a finished plan, so nothing is left to plan: leave it out"
            )
        self.sharding.check()
        managed = next((table.name for table in self.tables if table.managed), None)
        self.sharding.check_tables([table.name for table in self.tables], self.dim, managed)
        self.sharding.check_device(self.machine.device)

        per_node = self.machine.ranks_per_node
        if self.ranks > per_node and self.ranks % per_node:
            whole = -(-self.ranks // per_node) * per_node
            raise UserError(
                f"--ranks {self.ranks} is not a multiple of the {per_node} ranks of a node: take "
                f"{whole}, or set --ranks-per-node"
            )

    def _check_sizes(self) -> None:
        """Raises UserError if a size is out of range."""
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

        # This is an upper bound: numbers have at most the size of fp32.
        looked_up = max(self.lookups(table) * table.dim for table in self.tables) * ROWS["fp32"]
        if looked_up > _MOST_BYTES:
            raise UserError(
                f"a step looks up {as_text(looked_up)} of vectors a rank, more than can be "
                "planned: give a smaller batch, context or number of negatives"
            )
