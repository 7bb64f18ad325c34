"""How tables are cut over the ranks: settings alone; `plan.py` makes a plan of them, `distribute.py` carries it out."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torchrec_priors.errors import UserError, nearest

ROW_WISE = "row_wise"
TABLE_WISE = "table_wise"
COLUMN_WISE = "column_wise"
TYPES = (ROW_WISE, TABLE_WISE, COLUMN_WISE)
UVM = ("fused_uvm", "fused_uvm_caching")
_KERNELS = ("fused", *UVM)
_COMMUNICATION = ("fp32", "fp16", "bf16")
_AUTO = "auto"
_REFUSED = {
    "data_parallel": "TorchRec's copies of a table on every rank have no fused optimizer, and fail at their first "
    "lookup on a CPU: use table_wise for small tables",
    "table_row_wise": "TorchRec offers it for pooled tables alone: use row_wise",
    "table_column_wise": "TorchRec offers it for pooled tables alone: use column_wise",
    "grid_shard": "TorchRec offers it for pooled tables alone: use row_wise or column_wise",
}


@dataclass
class TableSharding:
    """One table that is cut otherwise than the rest; what is empty is as it is for all.

    Attributes:
        type, kernel: see `ShardingConfig`.
        cache_load_factor: the same; 0 is as for all.
    """

    type: str = ""
    kernel: str = ""
    cache_load_factor: float = 0.0


@dataclass
class ShardingConfig:
    """Which rank holds what of the tables. Training alone asks: what only reads a checkpoint reads it row-wise.

    Losses are the same for every type to what float32 rounds; columns that are cut apart learn as whole rows do
    (`whole_rows.py`).

    Attributes:
        type: `row_wise` (each rank a block of rows), `table_wise` (each table on one rank), `column_wise` (each rank
            some columns of all rows) or `auto` (what TorchRec's planner thinks fastest, a choice for each table).
        kernel: `fused` (in the device's memory), `fused_uvm` (in the host's, read by a GPU), `fused_uvm_caching` (the
            same with a cache of rows on the GPU) or `auto` (the planner's choice).
        columns: width of column-wise shards, a multiple of 4 that divides `model.dim`; 0 for the narrowest of which a
            rank has at most one of each table.
        cache_load_factor: of `fused_uvm_caching`, the share of the rows that the cache has room for.
        tables: tables that are cut otherwise: `item`, and `feature_NAME` for a feature of the encoder.
        plan: file of a plan that a run has made (its `sharding.json`), to be carried out again.
        dedup: whether a step asks for each id once and copies its vector: less to send where ids repeat, for a sort.
        communication: precision of the vectors and gradients that a lookup sends between ranks: `fp32`, `fp16` or, on
            GPUs, `bf16`.
    """

    type: str = ROW_WISE
    kernel: str = _AUTO
    columns: int = 0
    cache_load_factor: float = 0.2
    tables: dict[str, TableSharding] = field(default_factory=dict)
    plan: str = ""
    dedup: bool = False
    communication: str = "fp32"

    def check(self) -> None:
        _check_type("sharding.type", self.type)
        _check_one_of("sharding.kernel", self.kernel, (*_KERNELS, _AUTO))
        _check_one_of("sharding.communication", self.communication, _COMMUNICATION)
        if self.columns < 0 or self.columns % 4:
            raise UserError(
                f"sharding.columns = {self.columns} must be a multiple of 4 (FBGEMM's kernels), or 0"
            )
        _check_share("sharding.cache_load_factor", self.cache_load_factor)
        for name, table in self.tables.items():
            key = f"sharding.tables.{name}"
            if table.type:
                _check_type(f"{key}.type", table.type)
            if table.kernel:
                _check_one_of(f"{key}.kernel", table.kernel, (*_KERNELS, _AUTO))
            if table.cache_load_factor:
                _check_share(f"{key}.cache_load_factor", table.cache_load_factor)
        if self.plan:
            decided = [
                name for name in ("type", "kernel", "columns", "tables") if self._given(name)
            ]
            if decided:
                raise UserError(
                    f"sharding.plan decides sharding.{decided[0]}: leave one of the two out"
                )

    def check_tables(self, tables: Iterable[str], dim: int, managed: str | None = None) -> None:
        """Raises UserError where the settings do not fit the model's tables.

        Args:
            tables: their names.
            dim: their width.
            managed: the one whose rows TorchRec manages, where there is one.
        """
        names = list(tables)
        for name in self.tables:
            if name not in names:
                raise UserError(
                    f"sharding.tables: the model has no table '{name}': {nearest(name, names)}"
                )
        if self.columns and dim % self.columns:
            raise UserError(f"sharding.columns = {self.columns} must divide model.dim = {dim}")
        if managed is None or self.plan:
            return
        if self.type_of(managed) not in (ROW_WISE, _AUTO):
            raise UserError(
                f"sharding: with embedding.unseen = 'managed' table '{managed}' is cut where its blocks of rows end: "
                f"write sharding.tables.{managed}.type = 'row_wise'"
            )
        if (self.kernels_of(managed) or ["fused"]) != ["fused"]:
            raise UserError(
                f"sharding: with embedding.unseen = 'managed' table '{managed}' stays in the device's memory: write "
                f"sharding.tables.{managed}.kernel = 'fused'"
            )

    def check_device(self, device: str) -> None:
        """Raises UserError where a device ("cpu" or "cuda") cannot do what is asked for."""
        if device != "cpu":
            return
        for key, kernel in (("sharding.kernel", self.kernel), *self._kernels_of_tables()):
            if kernel in UVM:
                raise UserError(
                    f"{key} = '{kernel}' is for GPUs: a CPU has its tables in the host's memory: use fused"
                )
        if self.communication == "bf16":
            raise UserError(
                "sharding.communication = 'bf16' is for GPUs: gloo does not send it: use fp16"
            )

    def type_of(self, table: str) -> str:
        return self._of(table).type or self.type

    def types_of(self, table: str) -> list[str]:
        """Those that the planner may choose from."""
        chosen = self.type_of(table)
        return list(TYPES) if chosen == _AUTO else [chosen]

    def kernels_of(self, table: str) -> list[str] | None:
        """Those that the planner may choose from; None for any."""
        chosen = self._of(table).kernel or self.kernel
        return None if chosen == _AUTO else [chosen]

    def load_factor_of(self, table: str) -> float:
        return self._of(table).cache_load_factor or self.cache_load_factor

    def for_reading(self, device: str) -> "ShardingConfig":
        """Where a checkpoint is only read: each rank holds the rows that it answers for, on GPUs in the memory that
        training had them in."""
        if device == "cpu":
            return ShardingConfig()
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

    def _of(self, table: str) -> TableSharding:
        return self.tables.get(table, TableSharding())

    def _kernels_of_tables(self) -> list[tuple[str, str]]:
        return [
            (f"sharding.tables.{name}.kernel", table.kernel) for name, table in self.tables.items()
        ]


def _check_type(key: str, value: str) -> None:
    if value in _REFUSED:
        raise UserError(f"{key} = '{value}': {_REFUSED[value]}")
    _check_one_of(key, value, (*TYPES, _AUTO))


def _check_one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise UserError(f"{key} = '{value}': {nearest(value, valid)}")


def _check_share(key: str, value: float) -> None:
    if not 0 < value <= 1:
        raise UserError(f"{key} = {value} must be above 0 and at most 1")
