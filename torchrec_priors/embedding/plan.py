"""A sharding plan says which rank holds which pieces of every table.

It contains TorchRec's plan in a form that can be printed, saved with a run and used again.

    the planner's plan --- from_torchrec -->             --- to_torchrec ---> the model's sharding
                                              ModelPlan
    an earlier sharding.json --- read ----->             --- to_json ---> this run's sharding.json

`torchrec_plan.py` has the two functions for TorchRec.

For example, this is the rank of each value of a table of 4 rows and 4 columns on two ranks:

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

from torchrec_priors.common.files import read_json
from torchrec_priors.errors import UserError
from torchrec_priors.settings.sharding import ROW_WISE, TYPES, UVM

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Piece:
    """A part of a table, on one rank.

    It has rows [first_row, first_row + rows) of columns [first_column, first_column + columns).
    """

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
        block: number of rows in a block if the table is managed; otherwise 0. A block stays on one
            rank.
    """

    name: str
    module: str
    rows: int
    columns: int
    block: int = 0


@dataclass(frozen=True)
class TablePlan:
    """The plan of one table.

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
        """Returns the bytes on a rank: values, and Adagrad's number for each row of each piece."""
        return sum(
            _FLOAT * piece.rows * (piece.columns + 1) for piece in self.pieces if piece.rank == rank
        )


@dataclass(frozen=True)
class ModelPlan:
    """The plan of all tables of a model.

    Attributes:
        ranks: number of ranks.
        tables: the plan of each table.
    """

    ranks: int
    tables: list[TablePlan]

    def __getitem__(self, name: str) -> TablePlan:
        return next(plan for plan in self.tables if plan.table.name == name)

    @property
    def cached(self) -> bool:
        """Whether any table is cached."""
        return any(table.cached for table in self.tables)

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
        """Returns the plan as JSON values."""
        return asdict(self)

    def check(self, tables: Iterable[ModelTable], where: str) -> None:
        """Checks that the plan holds every value of every table exactly once.

        Args:
            tables: the tables of the model.
            where: beginning of the message.

        Raises:
            UserError: the plan does not do so, or TorchRec cannot look up values in such pieces.
        """
        # Tables are removed one by one; any that are left are not in the model.
        planned = {plan.table.name: plan for plan in self.tables}
        for table in tables:
            plan = planned.pop(table.name, None)
            if plan is None:
                raise UserError(f"{where} does not cover table '{table.name}': make another plan")

            planned_size = _rows_and_columns(plan.table)
            size = _rows_and_columns(table)
            if planned_size != size:
                raise UserError(
                    f"{where} is for a table '{table.name}' of {planned_size}, not of {size}: "
                    "make another plan"
                )
            _check_pieces(plan, table, self.ranks, f"{where}, table '{table.name}'")

        if planned:
            raise UserError(
                f"{where} has a table '{min(planned)}' that the model lacks: make another plan"
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

    def in_words(self) -> str:
        """Returns lines for users: one for each table, with the bytes on a rank.

        The bytes include values and optimizer state.
        """
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
        """Returns in words how many bytes of a table a rank has; a range if ranks differ."""
        bytes_of_ranks = [plan.bytes_of(rank) for rank in range(self.ranks)]
        least = _size(min(bytes_of_ranks))
        most = _size(max(bytes_of_ranks))
        return f"{most} a rank" if least == most else f"{least} to {most} a rank"


def even_blocks(rows: int, ranks: int) -> list[tuple[int, int]]:
    """Returns [first, last) of each rank's rows, as TorchRec cuts a table row-wise.

    >>> even_blocks(10, 4)
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    size = -(-rows // ranks)
    return [(min(rank * size, rows), min((rank + 1) * size, rows)) for rank in range(ranks)]


def _check_pieces(plan: TablePlan, table: ModelTable, ranks: int, where: str) -> None:
    """Raises UserError unless TorchRec can use the pieces of a table, and each value is in one.

    Args:
        plan: the plan of the table.
        table: the table.
        ranks: number of ranks.
        where: beginning of the message.
    """
    # A rank without rows may have an empty piece, with any first row.
    held = [piece for piece in plan.pieces if piece.rows]
    if plan.type not in TYPES:
        raise UserError(f"{where} is cut {plan.type}: only {', '.join(TYPES)} can be carried out")
    if table.block and plan.type != ROW_WISE:
        raise UserError(f"{where} is managed, so it must be cut row_wise, not {plan.type}")
    if any(not 0 <= piece.rank < ranks for piece in held):
        raise UserError(f"{where} names a rank that is not one of {ranks}: make another plan")

    # A piece spans the table in one direction; in the other, pieces follow one another.
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
            " plan"
        )


def _rows_are_in_place(pieces: list[Piece], table: ModelTable, ranks: int) -> bool:
    """Returns whether row-wise pieces begin and end where TorchRec expects them."""
    # Blocks of a managed table stay whole; ranks may have different numbers of them.
    if table.block:
        return all(piece.first_row % table.block == 0 for piece in pieces)

    blocks = even_blocks(table.rows, ranks)
    return all(
        (piece.first_row, piece.first_row + piece.rows) == blocks[piece.rank] for piece in pieces
    )


def _rows_and_columns(table: ModelTable) -> str:
    """Returns the size of a table for users: "1,000 x 16"."""
    return f"{table.rows:,} x {table.columns}"


def _table_plan(values: Mapping[str, Any]) -> TablePlan:
    """Returns the plan of a table from JSON values."""
    return TablePlan(
        **{
            **values,
            "table": ModelTable(**values["table"]),
            "pieces": [Piece(**piece) for piece in values["pieces"]],
        }
    )


def _size(number: int) -> str:
    """Returns a number of bytes in words, for users.

    >>> _size(0), _size(215_296), _size(5_000_000), _size(64_290_000_000)
    ('0 kB', '215.3 kB', '5.0 MB', '64.3 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1000:.1f} kB" if number else "0 kB"
