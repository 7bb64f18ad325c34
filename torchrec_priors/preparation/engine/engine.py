"""What corpus files and preparation ask of an engine.

A corpus file whose `load` takes a third argument gets one: `load(raw, bad_rows, engine)`. Nothing of a raw file is held
in memory; what is read are Ibis tables, to be combined by Ibis expressions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.engine import copies
from torchrec_priors.preparation.engine.journal import Journal, key_of
from torchrec_priors.preparation.engine.rule import Rule, broken, first_broken, kept
from torchrec_priors.preparation.engine.source import (
    ORDER,
    ROW,
    ROW_BITS,
    Source,
    check_parquet,
    checked,
    origin,
    plain,
)
from torchrec_priors.preparation.raw.bad_rows import BadRows


class Engine(ABC):
    """Reads raw files and computes Ibis tables, in bounded memory, with a folder for what it has to keep.

    Args:
        folder: exists; work tables and what spills go there.

    Attributes:
        name: as in `--engine`.
        rows_a_bucket: how many interactions it sorts at a time.
        keeps_short: whether users of short histories are wanted, too, for a later append; then corpora leave them in.
    """

    name: str
    rows_a_bucket: int
    keeps_short: bool = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.jsonl")
        self._sources: dict[str, Source] = {}

    def read_parquet(
        self,
        files: Sequence[Path | str],
        columns: Mapping[str, pa.DataType],
        bad_rows: BadRows | None = None,
    ) -> ir.Table:
        """The columns of Parquet files, unread, and three that name each row.

        `file` is the place of its file among the sorted `files`, `row` its 1-based place in the file, and `order` both
        in one number, which sorts in raw order.

        Args:
            bad_rows: what becomes of rows with text that is no UTF-8; by default they are refused.

        Raises:
            UserError: no Parquet, or a column that is missing or of another type (dictionaries count as their values).
        """
        paths = checked(files, columns)
        for path in paths:
            check_parquet(path, columns)
        types = {name: plain(kind) for name, kind in columns.items()}
        return self._read(Source(paths, types, bad_rows or BadRows(), ROW))

    def read_csv(
        self,
        files: Sequence[Path | str],
        columns: Mapping[str, pa.DataType],
        bad_rows: BadRows | None = None,
    ) -> ir.Table:
        """The columns of comma-separated files with a header, typed, and the three of `read_parquet`.

        `row` is the line. Files are read once, block by block, and kept as Parquet in the engine's folder.

        Raises:
            UserError: a missing column; a row that is malformed, of another number of fields, of other types or no
                UTF-8, where `bad_rows` refuses; a value with a line break.
        """
        source = Source(checked(files, columns), columns, bad_rows or BadRows(), "line")
        for index in range(len(source.files)):
            self._copy(source, index, copies.copy_csv)
        return self._read(source)

    def keep_valid(
        self,
        table: ir.Table,
        valid: ir.BooleanValue | ir.Table,
        bad_rows: BadRows,
        column: str,
        must: str,
    ) -> ir.Table:
        """The rows of a raw table where `valid`; the others are refused, or counted as "<column> <must>".

        Args:
            table: of `read_parquet` or `read_csv`, or what was made of one and still has `file`, `row` and `order`.
            valid: an expression of the table; or a table whose column of the same name lists the allowed values.
        """
        return self.keep_all_valid(table, [Rule(column, must, valid)], bad_rows)

    def keep_all_valid(self, table: ir.Table, rules: Sequence[Rule], bad_rows: BadRows) -> ir.Table:
        """The rows that fulfil all rules, by one query over the table; a row counts for the first that it breaks."""
        query = broken(table, rules)
        key = key_of(bad_rows.policy, self._fingerprint(query), *(rule.reason for rule in rules))
        noted = self.journal.finished(f"check {key}", key)
        found = noted["found"] if noted else self.to_arrow(query).to_pylist()
        if found:
            self._handle(table, rules, found, bad_rows)
        if not noted:
            self.journal.finish(f"check {key}", key, {"found": found})
        return kept(table, rules) if found else table

    def require_unique(self, table: ir.Table, column: str) -> None:
        """Raises UserError where two rows of a raw table have the same value of `column`."""
        counts = table.group_by(column).aggregate(rows=table.count(), first=table[ORDER].max())
        again = self.to_arrow(counts.filter(counts.rows > 1).order_by("first").limit(1)).to_pylist()
        if again:
            where = self._where(table, again[0]["first"])
            raise UserError(f"{where}: the same {column} twice: {shown(str(again[0][column]))}")

    def materialise(self, name: str, table: ir.Table, key: str = "") -> ir.Table:
        """Computes a table once, into the engine's folder; what is there already for this key is taken.

        Args:
            key: of what decides the content, beside the settings that the whole folder is for.
        """
        place = self.folder / "tables" / name
        stage = f"table {name}"
        if self.journal.finished(stage, key) is None:
            place.parent.mkdir(exist_ok=True)
            self.journal.finish(stage, key, files=self.write(table, place))
        return self.table(f"table_{name}", sorted(place.glob("*.parquet")))

    def divide(self, name: str, table: ir.Table, column: str, parts: int) -> list[ir.Table]:
        """The rows of a table by the value of `column`, 0 to `parts` - 1, each as a table in the engine's folder."""
        place = self.folder / "tables" / name
        stage = f"table {name}"
        if self.journal.finished(stage) is None:
            place.parent.mkdir(exist_ok=True)
            self.journal.finish(stage, files=self.write(table, place, column))
        folders = [place / f"{column}={part}" for part in range(parts)]
        return [
            self.table(f"table_{name}_{n}", sorted(own.glob("*.parquet")))
            for n, own in enumerate(folders)
        ]

    def value(self, scalar: ir.Scalar) -> Any:
        """The value of an expression that is one."""
        table = scalar.name("value").as_table()
        return self.to_arrow(table)["value"][0].as_py()

    @abstractmethod
    def to_arrow(self, table: ir.Table) -> pa.Table:
        """A small table, in the types of its Ibis schema."""

    @abstractmethod
    def batches(self, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
        """A table of any size in its own order, at most about `rows` rows at a time."""

    @abstractmethod
    def write(self, table: ir.Table, folder: Path, by: str | None = None) -> list[Path]:
        """Writes Parquet files into a new `folder`, which replaces one that is there, and names them in order.

        Args:
            by: a column of integers: rows with value v go into the folder "<by>=v", without this column.
        """

    @abstractmethod
    def table(self, name: str, files: Sequence[Path]) -> ir.Table:
        """Parquet files of the engine's own, as a table of this name."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _define(self, name: str, source: Source) -> ir.Table:
        """(Re)defines the table `name` as the columns of the source, with `file` (int32) and `row` (int64)."""

    @abstractmethod
    def _fingerprint(self, table: ir.Table) -> str:
        """The same for the same expression over the same tables."""

    def _read(self, source: Source) -> ir.Table:
        name = f"raw_{len(self._sources)}"
        self._sources[name] = source
        table = self._define(name, source)
        order = table.file.cast("int64") * (1 << ROW_BITS) + table["row"]
        return table.mutate(**{ORDER: order})

    def _copy(
        self,
        source: Source,
        index: int,
        make: Callable[[Path, Mapping[str, pa.DataType], BadRows, Path], None],
    ) -> None:
        """Reads a file of a source from a copy from now on, and counts what the copy left out."""
        file = source.files[index]
        policy = source.bad_rows.policy
        size = file.stat()
        key = key_of(
            file, size.st_size, size.st_mtime_ns, make.__name__, policy, *source.columns.items()
        )
        copy = self.folder / "copies" / f"{key}.parquet"
        noted = self.journal.finished(f"copy {file}", key)
        if noted is None:
            left_out = BadRows(policy, remedy=source.bad_rows.remedy)
            make(file, source.columns, left_out, copy)
            noted = left_out.dropped
            self.journal.finish(f"copy {file}", key, noted, [copy])
        for account, rows in noted.items():
            source.bad_rows.count(account, rows)
        source.copies[index] = copy

    def _handle(
        self, table: ir.Table, rules: Sequence[Rule], found: list[dict[str, Any]], bad_rows: BadRows
    ) -> None:
        """Refuses by the first bad row of all, or counts the rows of each rule."""
        source = self._source(table)
        for entry in sorted(found, key=lambda entry: entry["first"]):
            rule = rules[entry["rule"]]
            example = rule.reason
            if bad_rows.policy == "refuse":
                value = self.to_arrow(first_broken(table, rules, entry["rule"], entry["first"]))[
                    "value"
                ][0].as_py()
                example = (
                    f"{rule.reason}: {shown(value) if isinstance(value, str) else repr(value)}"
                )
            where = self._where(table, entry["first"])
            bad_rows.handle_many(where, example, f"{source.label}: {rule.reason}", entry["rows"])

    def _source(self, table: ir.Table) -> Source:
        name = origin(table)
        if name not in self._sources:
            raise UserError(
                "keep_valid needs a table with the columns file, row and order of the raw files it is of"
            )
        return self._sources[name]

    def _where(self, table: ir.Table, order: int) -> str:
        """The file and the row or line of a row, for messages."""
        source = self._source(table)
        return f"{source.files[order >> ROW_BITS]}, {source.unit} {order & ((1 << ROW_BITS) - 1)}"

    def _file_named_in(self, message: str) -> tuple[Source, int] | None:
        """The raw file that an engine's message tells about."""
        for source in self._sources.values():
            for index, file in enumerate(source.files):
                if index not in source.copies and str(file) in message:
                    return source, index
        return None
