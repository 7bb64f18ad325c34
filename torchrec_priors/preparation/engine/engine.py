"""The interface of engines for corpus files and preparation.

A corpus file whose `load` takes a third argument gets an engine: `load(raw, bad_rows, engine)`. No
raw file is held in memory: an engine returns Ibis tables, which Ibis expressions combine. A corpus
file reads its log and keeps what is valid like this:

    columns = {"item_id": pa.string(), "timestamp": pa.int64()}
    log = engine.read_csv([raw / "log.csv"], columns, bad_rows)
    log = engine.keep_valid(log, log.timestamp >= 0, bad_rows, "timestamp", "must not be negative")
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
    """Reads raw files and computes Ibis tables in bounded memory.

    Args:
        folder: An existing folder for work tables and for data that does not fit into memory.

    Attributes:
        name: Name of the engine, as in `--engine`.
        rows_a_bucket: Number of interactions that it sorts at a time.
        keeps_short: Whether users of short histories are wanted, too, for a later append. Then
            corpora do not filter them out.
    """

    name: str
    rows_a_bucket: int
    keeps_short: bool = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.jsonl")
        self._sources: dict[str, Source] = {}

    # For corpus files

    def read_parquet(
        self,
        files: Sequence[Path | str],
        columns: Mapping[str, pa.DataType],
        bad_rows: BadRows | None = None,
    ) -> ir.Table:
        """Returns columns of Parquet files, not yet read, and three columns that identify each row.

        `file` is the index of a row's file in the sorted `files`, `row` its 1-based position in the
        file, and `order` both in one number, which sorts in raw order.

        Args:
            files: The files.
            columns: Name -> type of the columns to read.
            bad_rows: Handles rows with text that is not UTF-8. By default they are rejected.

        Raises:
            UserError: A file is not Parquet, or lacks a column or has it with another type
                (dictionaries count as their values).
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
        """Returns typed columns of comma-separated files with a header.

        The three columns of `read_parquet` are added; `row` is the line. Files are read once, block
        by block, and kept as Parquet in the engine's folder.

        Raises:
            UserError: A column is missing; `bad_rows` rejects a row that is malformed, has another
                number of fields or other types, or is not UTF-8; or a value has a line break.
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
        """Returns the valid rows of a raw table.

        The others are rejected, or counted as "<column> <must>".

        Args:
            table: A table of `read_parquet` or `read_csv`, or one that was derived from it and
                still has `file`, `row` and `order`.
            valid: An expression of the table; or a table whose column of the same name lists the
                allowed values.
            bad_rows: Handles the other rows.
            column: Column that messages name.
            must: Text such as "must not be negative".
        """
        return self.keep_all_valid(table, [Rule(column, must, valid)], bad_rows)

    def keep_all_valid(self, table: ir.Table, rules: Sequence[Rule], bad_rows: BadRows) -> ir.Table:
        """Returns the rows that fulfil all rules, by one query over the table.

        A row counts for the first rule that it breaks.
        """
        # A restarted preparation does not check again what it has checked.
        query = broken(table, rules)
        key = key_of(bad_rows.policy, self._fingerprint(query), *(rule.reason for rule in rules))
        noted = self.journal.finished(f"check {key}", key)
        if noted:
            violations = noted["found"]
        else:
            violations = self.to_arrow(query).to_pylist()

        # Handled before it is noted: rows that are rejected now are rejected the next time, too.
        if violations:
            self._handle(table, rules, violations, bad_rows)
        if not noted:
            self.journal.finish(f"check {key}", key, {"found": violations})

        return kept(table, rules) if violations else table

    def require_unique(self, table: ir.Table, column: str) -> None:
        """Raises UserError if two rows of a raw table have the same value of `column`."""
        # The last of the equal rows is reported.
        counts = table.group_by(column).aggregate(rows=table.count(), first=table[ORDER].max())
        repeated = counts.filter(counts.rows > 1).order_by("first").limit(1)
        rows = self.to_arrow(repeated).to_pylist()
        if rows:
            where = self._where(table, rows[0]["first"])
            raise UserError(f"{where}: the same {column} twice: {shown(str(rows[0][column]))}")

    # For the preparation of a data set

    def materialise(self, name: str, table: ir.Table, key: str = "") -> ir.Table:
        """Computes a table once, into the engine's folder; an existing one for this key is used.

        Args:
            name: Name of the table.
            table: The table to compute.
            key: Hash of what decides the content, in addition to the settings that the whole folder
                is for.
        """
        folder = self.folder / "tables" / name
        stage = f"table {name}"
        if self.journal.finished(stage, key) is None:
            folder.parent.mkdir(exist_ok=True)
            self.journal.finish(stage, key, files=self.write(table, folder))
        return self.table(f"table_{name}", sorted(folder.glob("*.parquet")))

    def divide(self, name: str, table: ir.Table, column: str, parts: int) -> list[ir.Table]:
        """Divides the rows of a table by the value of `column`, which is 0 to `parts` - 1.

        Returns:
            A table in the engine's folder for each value.
        """
        folder = self.folder / "tables" / name
        stage = f"table {name}"
        if self.journal.finished(stage) is None:
            folder.parent.mkdir(exist_ok=True)
            self.journal.finish(stage, files=self.write(table, folder, column))

        # A value without rows has no folder, and hence a table of no files.
        tables = []
        for part in range(parts):
            files = sorted((folder / f"{column}={part}").glob("*.parquet"))
            tables.append(self.table(f"table_{name}_{part}", files))
        return tables

    def value(self, scalar: ir.Scalar) -> Any:
        """Returns the value of a scalar expression."""
        table = scalar.name("value").as_table()
        return self.to_arrow(table)["value"][0].as_py()

    # What every engine implements

    @abstractmethod
    def to_arrow(self, table: ir.Table) -> pa.Table:
        """Computes a small table, in the types of its Ibis schema."""

    @abstractmethod
    def batches(self, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
        """Computes a table of any size in its own order, at most about `rows` rows at a time."""

    @abstractmethod
    def write(self, table: ir.Table, folder: Path, by: str | None = None) -> list[Path]:
        """Writes Parquet files into a new `folder`, which replaces an existing one.

        Args:
            table: The table to compute.
            folder: The folder.
            by: A column of integers. Rows with value v go into the folder "<by>=v", without this
                column.

        Returns:
            The files, in order.
        """

    @abstractmethod
    def table(self, name: str, files: Sequence[Path]) -> ir.Table:
        """Returns Parquet files that the engine wrote, as a table of this name."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _define(self, name: str, source: Source) -> ir.Table:
        """(Re)defines the table `name` as the columns of a source.

        It has `file` (int32) and `row` (int64), too.
        """

    @abstractmethod
    def _fingerprint(self, table: ir.Table) -> str:
        """Returns a text that is the same for the same expression over the same tables."""

    # What all engines share

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
        """Makes a source read one of its files from a copy, and counts what the copy left out.

        A copy of the same file, size and time of change is used again.
        """
        # The policy is part of the key: a copy that was written under another one may lack rows.
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

        # What the copy left out is counted whether it was written now or earlier.
        for account, rows in noted.items():
            source.bad_rows.count(account, rows)
        source.copies[index] = copy

    def _handle(
        self,
        table: ir.Table,
        rules: Sequence[Rule],
        violations: list[dict[str, Any]],
        bad_rows: BadRows,
    ) -> None:
        """Rejects the first bad row of all, or counts the rows of each rule.

        Args:
            violations: Rows of `broken`: `rule`, `rows` and `first` each.
        """
        source = self._source(table)
        for entry in sorted(violations, key=lambda entry: entry["first"]):
            rule = rules[entry["rule"]]
            example = rule.reason

            # The value takes another query, which only a message needs.
            if bad_rows.policy == "refuse":
                query = first_broken(table, rules, entry["rule"], entry["first"])
                value = self.to_arrow(query)["value"][0].as_py()
                text = shown(value) if isinstance(value, str) else repr(value)
                example = f"{rule.reason}: {text}"

            where = self._where(table, entry["first"])
            bad_rows.handle_many(where, example, f"{source.label}: {rule.reason}", entry["rows"])

    def _source(self, table: ir.Table) -> Source:
        name = origin(table)
        if name not in self._sources:
            raise UserError(
                "keep_valid needs a table with the columns file, row and order of its raw files"
            )
        return self._sources[name]

    def _where(self, table: ir.Table, order: int) -> str:
        """Names the file and the row or line of a row, for messages."""
        source = self._source(table)
        file = source.files[order >> ROW_BITS]
        row = order & ((1 << ROW_BITS) - 1)
        return f"{file}, {source.unit} {row}"

    def _file_named_in(self, message: str) -> tuple[Source, int] | None:
        """Returns the raw file that an engine's message names: its source and its index there."""
        # A file that has a copy is read no more.
        for source in self._sources.values():
            for index, file in enumerate(source.files):
                if index not in source.copies and str(file) in message:
                    return source, index
        return None
