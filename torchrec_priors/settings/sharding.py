"""The section `[sharding]`: how tables are divided among the ranks.

This module only has the settings. `embedding/distribute.py` asks TorchRec's planner for a plan that
fits them, or reads a given plan, and distributes the tables.
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
# TorchRec also has these types, but they cannot be used here. The messages say why.
_REJECTED = {
    "data_parallel": "TorchRec's copies of a table on every rank have no fused optimizer, and fail "
    "at their first lookup on a CPU: use table_wise for small tables",
    "table_row_wise": "TorchRec offers it only for pooled tables: use row_wise",
    "table_column_wise": "TorchRec offers it only for pooled tables: use column_wise",
    "grid_shard": "TorchRec offers it only for pooled tables: use row_wise or column_wise",
}


@dataclass
class TableSharding(Section):
    """The settings of one table, if they differ from those of all tables.

    Attributes:
        type: `sharding.type` for this table; empty if it does not differ.
        kernel: `sharding.kernel` for this table; empty if it does not differ.
        cache_load_factor: `sharding.cache_load_factor` for this table; 0 if it does not differ.
    """

    type: str = ""
    kernel: str = ""
    cache_load_factor: Share = 0.0


@dataclass
class ShardingConfig(Section):
    """How the tables are divided among the ranks in training.

    Commands that only read a checkpoint always divide the tables by rows. Losses are the same for
    every type, except for the rounding of float32: a row that is divided by columns is trained like
    a whole row (`embedding/whole_rows.py`).

    Attributes:
        type: `row_wise` (each rank has a block of rows), `table_wise` (each table is on one rank),
            `column_wise` (each rank has some columns of all rows) or `auto` (for each table, the
            type that TorchRec's planner estimates to be fastest).
        kernel: `fused` (the table is in the device's memory), `fused_uvm` (it is in the host's
            memory, and a GPU reads it there), `fused_uvm_caching` (the same, with a cache of rows
            on the GPU) or `auto` (the planner chooses).
        columns: width of column-wise shards, which divides `model.dim`; FBGEMM's kernels need a
            multiple of 4. 0 takes the smallest width at which no rank has two shards of a table.
        cache_load_factor: share of the rows that fit into the cache of `fused_uvm_caching`.
        tables: settings of single tables, by the name of the table: `item`, or `feature_NAME` for a
            feature of the encoder.
        plan: a file `sharding.json` that a run has written; the tables are divided in the same way.
        dedup: whether a step looks up each id only once and then copies its vector. If ids repeat,
            ranks send less, but the ids must be sorted.
        communication: precision of the vectors and gradients that a lookup sends between ranks:
            `fp32`, `fp16` or, on GPUs, `bf16`.
        language_models: whether the parameters, gradients and optimizer state of language models
            are divided among the ranks (FSDP2), too. Otherwise each rank has a whole copy.
    """

    type: str = ROW_WISE
    kernel: str = _AUTO
    columns: Annotated[int, Ge(0), Le(MOST), MultipleOf(4)] = 0
    cache_load_factor: PositiveShare = 0.2
    tables: dict[str, TableSharding] = field(default_factory=dict)
    plan: str = ""
    dedup: bool = False
    communication: str = "fp32"
    language_models: bool = False

    def check(self) -> None:
        """Raises UserError if a value is out of its range or unknown, or if two contradict."""
        check_ranges(self, "sharding")

        # These checks are code, not types of the fields, because their messages suggest a valid
        # value.
        _check_type("sharding.type", self.type)
        _check_one_of("sharding.kernel", self.kernel, (*_KERNELS, _AUTO))
        _check_one_of("sharding.communication", self.communication, _COMMUNICATION)

        for name, table in self.tables.items():
            key = f"sharding.tables.{name}"
            if table.type:
                _check_type(f"{key}.type", table.type)
            if table.kernel:
                _check_one_of(f"{key}.kernel", table.kernel, (*_KERNELS, _AUTO))

        # A plan contains values for these settings, so given values would be ignored.
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
            tables: the names of the tables.
            dim: the width of the tables.
            managed: the name of the table with managed collisions; None if there is none.
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
        """Raises UserError if a device ("cpu" or "cuda") does not support the settings."""
        # GPUs support all settings.
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
        """Returns the sharding type of a table."""
        return self._settings_of(table).type or self.type

    def types_of(self, table: str) -> list[str]:
        """Returns the types that the planner may choose from for a table."""
        chosen = self.type_of(table)
        if chosen == _AUTO:
            return list(TYPES)
        return [chosen]

    def kernels_of(self, table: str) -> list[str] | None:
        """Returns the kernels that the planner may choose from for a table; None for any."""
        chosen = self._settings_of(table).kernel or self.kernel
        if chosen == _AUTO:
            return None
        return [chosen]

    def load_factor_of(self, table: str) -> float:
        """Returns the share of a table's rows that fit into its cache."""
        return self._settings_of(table).cache_load_factor or self.cache_load_factor

    def for_reading(self, device: str) -> "ShardingConfig":
        """Returns the settings with which a command reads a checkpoint.

        Each rank has a block of rows. On GPUs, the tables are in the same memory as in training.
        """
        if device == "cpu":
            return ShardingConfig()

        # The kernel decides in which memory a table is. A table that is too large for the device's
        # memory must keep its kernel.
        tables = {name: replace(table, type="") for name, table in self.tables.items()}
        return ShardingConfig(
            kernel=self.kernel, cache_load_factor=self.cache_load_factor, tables=tables
        )

    def without_effect(self) -> list[str]:
        """Returns the keys that were given although they have no effect with the other settings."""
        types = {self.type, *(table.type for table in self.tables.values())}
        kernels = {self.kernel, *(table.kernel for table in self.tables.values())}
        unread = {
            "columns": not types & {COLUMN_WISE, _AUTO},
            "cache_load_factor": not kernels & {"fused_uvm_caching", _AUTO} or bool(self.plan),
        }

        return [f"sharding.{name}" for name, idle in unread.items() if idle and self._given(name)]

    def _given(self, name: str) -> bool:
        """Returns whether a setting has another value than its default."""
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
