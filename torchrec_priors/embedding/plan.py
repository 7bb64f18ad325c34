"""Which rank holds what of every table: TorchRec's plan in a form that is printed, kept with a run
and used again.

    the planner's plan --- ModelPlan.of --->             --- to_torchrec ---> the model's sharding
                                              ModelPlan
    an earlier sharding.json --- read ----->             --- to_json ---> this run's sharding.json

A table of 4 rows and 4 columns on two ranks, as the rank that holds each value:

    row_wise    column_wise    table_wise
    0 0 0 0     0 0 1 1        1 1 1 1
    0 0 0 0     0 0 1 1        1 1 1 1
    1 1 1 1     0 0 1 1        1 1 1 1
    1 1 1 1     0 0 1 1        1 1 1 1
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

from torchrec_priors.common.files import read_json
from torchrec_priors.errors import UserError
from torchrec_priors.settings.sharding import ROW_WISE, TYPES, UVM

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Piece:
    """A part of a table: rows [first_row, first_row + rows) of columns [first_column, first_column
    + columns)."""

    rank: int
    first_row: int
    rows: int
    first_column: int
    columns: int


@dataclass(frozen=True)
class ModelTable:
    """A table of a model.

    Attributes:
        name: name of the table.
        module: path of the module that holds it.
        rows: number of rows.
        columns: number of columns.
        block: rows that stay together, if the table is managed; otherwise 0.
    """

    name: str
    module: str
    rows: int
    columns: int
    block: int = 0


@dataclass(frozen=True)
class TablePlan:
    """One table, and where its pieces are.

    Attributes:
        table: the table.
        type: TorchRec's name of the sharding type.
        kernel: TorchRec's name of the kernel.
        pieces: parts of the table, each on a rank.
        cache_load_factor: share of the rows in a cached kernel's cache; None for TorchRec's
            default.
    """

    table: ModelTable
    type: str
    kernel: str
    pieces: list[Piece]
    cache_load_factor: float | None = None

    @property
    def row_wise(self) -> bool:
        """Whether each rank holds one block of whole rows."""
        return self.type == ROW_WISE

    @property
    def cached(self) -> bool:
        """Whether rows are in the host's memory with a cache of them on a GPU."""
        return self.kernel == "fused_uvm_caching"

    def bytes_of(self, rank: int) -> int:
        """Bytes on a rank: values, and a number of row-wise Adagrad for each row of each piece."""
        return sum(
            _FLOAT * piece.rows * (piece.columns + 1) for piece in self.pieces if piece.rank == rank
        )


@dataclass(frozen=True)
class ModelPlan:
    """All tables of a model."""

    ranks: int
    tables: list[TablePlan]

    def __getitem__(self, name: str) -> TablePlan:
        return next(plan for plan in self.tables if plan.table.name == name)

    @property
    def cached(self) -> bool:
        """Whether any table is cached."""
        return any(table.cached for table in self.tables)

    @classmethod
    def of(cls, plan: ShardingPlan, tables: Iterable[ModelTable], ranks: int) -> "ModelPlan":
        """TorchRec's plan of some tables.

        Raises:
            UserError: it leaves something out.
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

        model_plan = cls(ranks, table_plans)
        model_plan.check(tables, "the sharding plan")
        return model_plan

    @classmethod
    def read(cls, file: Path) -> "ModelPlan":
        """Reads a plan that `to_json` wrote.

        Raises:
            UserError: the file holds no plan.
        """
        remedy = (
            "give a run's sharding.json as it was written, or without its sha256 if you changed it"
        )

        try:
            values = read_json(file, remedy=remedy)
            # The file may hold anything: if it is not a plan, this raises one of the errors below.
            return cls(int(values["ranks"]), [_table_plan(table) for table in values["tables"]])
        except UserError as error:
            raise UserError(f"sharding.plan: '{file}' holds no plan ({error})") from error
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"sharding.plan: '{file}' holds no plan ({reason}): give a run's sharding.json"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    def check(self, tables: Iterable[ModelTable], where: str) -> None:
        """Raises UserError unless the plan holds every value of every table exactly once, in pieces
        that TorchRec can look up; the message begins with `where`."""
        # Tables are taken out one by one: what is left is not the model's.
        planned = {plan.table.name: plan for plan in self.tables}
        for table in tables:
            plan = planned.pop(table.name, None)
            if plan is None:
                raise UserError(f"{where} does not cover table '{table.name}': make another")

            planned_size = _rows_and_columns(plan.table)
            size = _rows_and_columns(table)
            if planned_size != size:
                raise UserError(
                    f"{where} is for a table '{table.name}' of {planned_size}, not of {size}: "
                    "make another"
                )
            _check_pieces(plan, table, self.ranks, f"{where}, table '{table.name}'")

        if planned:
            raise UserError(
                f"{where} has a table '{min(planned)}' that the model lacks: make another"
            )

    def check_fits(self, tables: list[ModelTable], ranks: int, device: str, where: str) -> None:
        """Raises UserError if a plan that was read is not for these tables, ranks and device."""
        if self.ranks != ranks:
            raise UserError(
                f"{where} is for {self.ranks} ranks, not for {ranks}: run on {self.ranks}, or make "
                "another"
            )

        self.check(tables, where)
        for plan in self.tables:
            if device == "cpu" and plan.kernel in UVM:
                raise UserError(
                    f"{where}, table '{plan.table.name}': kernel {plan.kernel} is for GPUs: make "
                    "another"
                )

    def to_torchrec(
        self, tables: Iterable[ModelTable], device: str, local_ranks: int, *, prefetch: bool = False
    ) -> ShardingPlan:
        """The plan as TorchRec takes it, for a model of these tables.

        Args:
            prefetch: whether rows come into GPUs' caches ahead of their steps: the caches must then
                not evict them before.
        """
        modules: dict[str, EmbeddingModuleShardingPlan] = {}
        for table in tables:
            plan = self[table.name]
            shards = [
                ShardMetadata(
                    shard_offsets=[piece.first_row, piece.first_column],
                    shard_sizes=[piece.rows, piece.columns],
                    placement=placement(device, piece.rank, local_ranks),
                )
                for piece in plan.pieces
            ]

            # Without either, TorchRec uses its defaults for a cache.
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

    def in_words(self) -> str:
        """A few lines for users: one for each table, with the bytes of a rank (values and optimizer
        state)."""
        rows = [
            (
                plan.table.name,
                plan.type,
                plan.kernel,
                _rows_and_columns(plan.table),
                self._bytes_in_words(plan),
            )
            for plan in self.tables
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

        plural = "s" if self.ranks > 1 else ""
        lines = [f"tables over {self.ranks} rank{plural}:"]
        lines += ["  ".join(["", *map(str.ljust, row, widths)]).rstrip() for row in rows]
        return "\n".join(lines)

    def _bytes_in_words(self, plan: TablePlan) -> str:
        """The bytes of a table on a rank; the range if ranks differ."""
        bytes_of_ranks = [plan.bytes_of(rank) for rank in range(self.ranks)]
        least = _size(min(bytes_of_ranks))
        most = _size(max(bytes_of_ranks))
        return f"{most} a rank" if least == most else f"{least} to {most} a rank"


def tables_of(model: nn.Module) -> list[ModelTable]:
    """The tables of a model that is not sharded yet."""
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
            # A managed module holds a plain one of the same table: the outer, which comes first,
            # stays.
            tables.setdefault(config.name, ModelTable(config.name, path, rows, columns, block))
    return list(tables.values())


def even_blocks(rows: int, ranks: int) -> list[tuple[int, int]]:
    """[first, last) of each rank's rows, as TorchRec cuts them.

    >>> even_blocks(10, 4)
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    size = -(-rows // ranks)
    return [(min(rank * size, rows), min((rank + 1) * size, rows)) for rank in range(ranks)]


def _check_pieces(plan: TablePlan, table: ModelTable, ranks: int, where: str) -> None:
    """Raises UserError unless the pieces of a table hold each value once and TorchRec can use
    them."""
    # A rank without rows may have an empty piece, at any place.
    held = [piece for piece in plan.pieces if piece.rows]
    if plan.type not in TYPES:
        raise UserError(f"{where} is cut {plan.type}: only {', '.join(TYPES)} can be carried out")
    if table.block and plan.type != ROW_WISE:
        raise UserError(f"{where} is managed, so it must be cut row_wise, not {plan.type}")
    if any(not 0 <= piece.rank < ranks for piece in held):
        raise UserError(f"{where} names a rank that is none of {ranks}: make another")

    # Pieces are whole in one direction and lie one after another in the other.
    if plan.type == ROW_WISE:
        whole = all((piece.first_column, piece.columns) == (0, table.columns) for piece in held)
        spans = sorted((piece.first_row, piece.rows) for piece in held)
        size = table.rows
        in_place = _rows_are_in_place(held, table, ranks)
    else:
        whole = all((piece.first_row, piece.rows) == (0, table.rows) for piece in held)
        spans = sorted((piece.first_column, piece.columns) for piece in held)
        size = table.columns
        in_place = len({piece.columns for piece in held}) == 1

    end = 0
    for first, length in spans:
        in_place &= first == end
        end = first + length
    if not (whole and in_place and end == size):
        raise UserError(
            f"{where} is not cut into {plan.type} pieces that hold each value once: make another"
        )


def _rows_are_in_place(pieces: list[Piece], table: ModelTable, ranks: int) -> bool:
    """Whether row-wise pieces begin and end where TorchRec looks for them."""
    # Blocks of a managed table stay whole; ranks may have different numbers of them.
    if table.block:
        return all(piece.first_row % table.block == 0 for piece in pieces)

    blocks = even_blocks(table.rows, ranks)
    return all(
        (piece.first_row, piece.first_row + piece.rows) == blocks[piece.rank] for piece in pieces
    )


def _rows_and_columns(table: ModelTable) -> str:
    return f"{table.rows:,} x {table.columns}"


def _interleaved(offsets: list[int], sizes: list[int]) -> tuple[int, int, int, int]:
    """(first row, rows, first column, columns) of a shard."""
    return offsets[0], sizes[0], offsets[1], sizes[1]


def _table_plan(values: Mapping[str, Any]) -> TablePlan:
    return TablePlan(
        **{
            **values,
            "table": ModelTable(**values["table"]),
            "pieces": [Piece(**piece) for piece in values["pieces"]],
        }
    )


def _size(number: int) -> str:
    """A number of bytes for users.

    >>> _size(0), _size(215_296), _size(5_000_000), _size(64_290_000_000)
    ('0 kB', '215.3 kB', '5.0 MB', '64.3 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1000:.1f} kB" if number else "0 kB"
