"""The section `[sharding]`: how tables are cut over the ranks.

These are settings only: `embedding/distribute.py` asks TorchRec's planner for a plan within them,
or reads a given one, and carries it out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Ge, Le, MultipleOf

from torchrec_priors.common.limits import MOST
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.settings.ranges import PositiveShare, Section, Share, check_ranges

ROW_WISE = "row_wise"
TABLE_WISE = "table_wise"
COLUMN_WISE = "column_wise"
TYPES = (ROW_WISE, TABLE_WISE, COLUMN_WISE)
UVM = ("fused_uvm", "fused_uvm_caching")
_KERNELS = ("fused", *UVM)
_COMMUNICATION = ("fp32", "fp16", "bf16")
_AUTO = "auto"
# TorchRec has these types, too, but they cannot be used here.
_REJECTED = {
    "data_parallel": "TorchRec's copies of a table on every rank have no fused optimizer, and fail "
    "at their first lookup on a CPU: use table_wise for small tables",
    "table_row_wise": "TorchRec offers it only for pooled tables: use row_wise",
    "table_column_wise": "TorchRec offers it only for pooled tables: use column_wise",
    "grid_shard": "TorchRec offers it only for pooled tables: use row_wise or column_wise",
}


@dataclass
class TableSharding(Section):
    """A table that is cut differently from the rest; what is empty is as for all tables.

    Attributes:
        type: as `sharding.type`, for this table.
        kernel: as `sharding.kernel`, for this table.
        cache_load_factor: as `sharding.cache_load_factor`, for this table; 0 is as for all.
    """

    type: str = ""
    kernel: str = ""
    cache_load_factor: Share = 0.0


@dataclass
class ShardingConfig(Section):
    """Which rank holds which part of the tables in training.

    What only reads a checkpoint reads it row-wise. Losses are the same for every type up to what
    float32 rounds; columns that are cut apart learn as whole rows do (`embedding/whole_rows.py`).

    Attributes:
        type: `row_wise` (each rank a block of rows), `table_wise` (each table on one rank),
            `column_wise` (each rank some columns of all rows) or `auto` (what TorchRec's planner
            estimates to be fastest, a choice for each table).
        kernel: `fused` (in the device's memory), `fused_uvm` (in the host's, read by a GPU),
            `fused_uvm_caching` (the same with a cache of rows on the GPU) or `auto` (the planner's
            choice).
        columns: width of column-wise shards, a multiple of 4 (FBGEMM's kernels) that divides
            `model.dim`; 0 for the narrowest with which a rank has at most one of each table.
        cache_load_factor: share of the rows that the cache of `fused_uvm_caching` has room for.
        tables: tables that are cut differently, by name: `item`, and `feature_NAME` for a feature
            of the encoder.
        plan: file of a plan that a run has written (its `sharding.json`), to be carried out again.
        dedup: whether a step looks up each id once and copies its vector: less to send if ids
            repeat, for the price of a sort.
        communication: precision of the vectors and gradients that a lookup sends between ranks:
            `fp32`, `fp16` or, on GPUs, `bf16`.
    """

    type: str = ROW_WISE
    kernel: str = _AUTO
    columns: Annotated[int, Ge(0), Le(MOST), MultipleOf(4)] = 0
    cache_load_factor: PositiveShare = 0.2
    tables: dict[str, TableSharding] = field(default_factory=dict)
    plan: str = ""
    dedup: bool = False
    communication: str = "fp32"

    def check(self) -> None:
        """Raises UserError if a value is out of its range, unknown, or does not fit another."""
        check_ranges(self, "sharding")

        # As code, not as types: the messages name the nearest valid value, or what to use instead.
        _check_type("sharding.type", self.type)
        _check_one_of("sharding.kernel", self.kernel, (*_KERNELS, _AUTO))
        _check_one_of("sharding.communication", self.communication, _COMMUNICATION)

        for name, table in self.tables.items():
            key = f"sharding.tables.{name}"
            if table.type:
                _check_type(f"{key}.type", table.type)
            if table.kernel:
                _check_one_of(f"{key}.kernel", table.kernel, (*_KERNELS, _AUTO))

        # A plan has all of these, so a value next to it would be ignored.
        if self.plan:
            decided = [
                name for name in ("type", "kernel", "columns", "tables") if self._given(name)
            ]
            if decided:
                raise UserError(
                    f"sharding.plan decides sharding.{decided[0]}: leave one of the two out"
                )

    def check_tables(self, tables: Iterable[str], dim: int, managed: str | None = None) -> None:
        """Raises UserError if the settings do not fit the model's tables.

        Args:
            tables: names of the tables.
            dim: width of the tables.
            managed: the table of which TorchRec manages the rows, if there is one.
        """
        names = list(tables)
        for name in self.tables:
            if name not in names:
                raise UserError(
                    f"sharding.tables: the model has no table '{name}': {nearest(name, names)}"
                )
        # All shards of a table must have the same number of columns.
        if self.columns and dim % self.columns:
            raise UserError(f"sharding.columns = {self.columns} must divide model.dim = {dim}")

        if managed is None or self.plan:
            return
        if self.type_of(managed) not in (ROW_WISE, _AUTO):
            raise UserError(
                f"sharding: with embedding.unseen = 'managed' table '{managed}' is cut where its "
                f"blocks of rows end: write sharding.tables.{managed}.type = 'row_wise'"
            )
        if (self.kernels_of(managed) or ["fused"]) != ["fused"]:
            raise UserError(
                f"sharding: with embedding.unseen = 'managed' table '{managed}' stays in the "
                f"device's memory: write sharding.tables.{managed}.kernel = 'fused'"
            )

    def check_device(self, device: str) -> None:
        """Raises UserError if a device ("cpu" or "cuda") cannot do what the settings say."""
        # GPUs can do everything that the settings offer.
        if device != "cpu":
            return

        for key, kernel in (("sharding.kernel", self.kernel), *self._kernels_of_tables()):
            if kernel in UVM:
                raise UserError(
                    f"{key} = '{kernel}' is for GPUs: a CPU has its tables in the host's memory: "
                    "use fused"
                )
        if self.communication == "bf16":
            raise UserError(
                "sharding.communication = 'bf16' is for GPUs: gloo does not send it: use fp16"
            )

    def type_of(self, table: str) -> str:
        """The sharding type of a table."""
        return self._settings_of(table).type or self.type

    def types_of(self, table: str) -> list[str]:
        """Types that the planner may choose from."""
        chosen = self.type_of(table)
        if chosen == _AUTO:
            return list(TYPES)
        return [chosen]

    def kernels_of(self, table: str) -> list[str] | None:
        """Kernels that the planner may choose from; None for any."""
        chosen = self._settings_of(table).kernel or self.kernel
        if chosen == _AUTO:
            return None
        return [chosen]

    def load_factor_of(self, table: str) -> float:
        """The share of a table's rows that its cache has room for."""
        return self._settings_of(table).cache_load_factor or self.cache_load_factor

    def for_reading(self, device: str) -> "ShardingConfig":
        """The settings for reading a checkpoint: each rank holds a block of rows, on GPUs in the
        same memory as in training."""
        if device == "cpu":
            return ShardingConfig()

        # A kernel decides where rows are stored, so a table that needs the host's memory keeps it.
        tables = {name: replace(table, type="") for name, table in self.tables.items()}
        return ShardingConfig(
            kernel=self.kernel, cache_load_factor=self.cache_load_factor, tables=tables
        )

    def without_effect(self) -> list[str]:
        """Keys that were given although nothing reads them."""
        types = {self.type, *(table.type for table in self.tables.values())}
        kernels = {self.kernel, *(table.kernel for table in self.tables.values())}
        unread = {
            "columns": not types & {COLUMN_WISE, _AUTO},
            "cache_load_factor": not kernels & {"fused_uvm_caching", _AUTO} or bool(self.plan),
        }

        return [f"sharding.{name}" for name, idle in unread.items() if idle and self._given(name)]

    def _given(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(ShardingConfig(), name))

    def _settings_of(self, table: str) -> TableSharding:
        return self.tables.get(table, TableSharding())

    def _kernels_of_tables(self) -> list[tuple[str, str]]:
        return [
            (f"sharding.tables.{name}.kernel", table.kernel) for name, table in self.tables.items()
        ]


def _check_type(key: str, value: str) -> None:
    if value in _REJECTED:
        raise UserError(f"{key} = '{value}': {_REJECTED[value]}")
    _check_one_of(key, value, (*TYPES, _AUTO))


def _check_one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise UserError(f"{key} = '{value}': {nearest(value, valid)}")
