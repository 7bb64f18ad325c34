"""Defines the interface of engines, which corpus files and preparation use.

If `load` of a corpus file takes a third argument, it gets an engine: `load(raw, bad_rows, engine)`.
An engine does not hold raw files in memory. It returns Ibis tables, which are combined in Ibis
expressions. A corpus file reads its log and keeps the valid rows like this:

    columns = {"item_id": pa.string(), "timestamp": pa.int64()}
    log = engine.read_csv([raw / "log.csv"], columns, bad_rows)
    log = engine.keep_valid(log, log.timestamp >= 0, bad_rows, "timestamp", "must not be negative")
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
from torchrec_priors.preparation.raw.csv_form import CsvForm
from torchrec_priors.preparation.raw.times import TimeForm


class Engine(ABC):
    """Reads raw files and computes Ibis tables in bounded memory.

    Args:
        folder: an existing folder for intermediate tables and for data that does not fit into
            memory.

    Attributes:
        name: the name of the engine, as in `--engine`.
        rows_a_bucket: the number of interactions that the engine can sort at a time.
        keeps_short: whether corpus files must not filter out users with short histories, because a
            later append may need them.
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
        times: Mapping[str, TimeForm] = MappingProxyType({}),
    ) -> ir.Table:
        """Returns a table of columns of Parquet files, which are read when the table is computed.

        The table has three more columns, which identify each row. `file` is the index of the row's
        file in the sorted `files`. `row` is the 1-based position of the row in the file. `order`
        combines both in one number, by which rows can be sorted into the order of the files.

        Args:
            files: the files.
            columns: the types of the columns to read, by name.
            bad_rows: handles rows with text that is not UTF-8. By default they are rejected.
            times: the forms of columns of times that are text, by name. These columns become
                milliseconds (int64); the files are copied for this, block by block.

        Raises:
            UserError: a file is not Parquet, lacks a column, or has a column of the wrong type. A
                dictionary column counts as a column of its values' type.
        """
        paths = checked(files, columns)
        for path in paths:
            check_parquet(path, columns)
        types = {name: plain(kind) for name, kind in columns.items()}
        types |= dict.fromkeys(times, pa.int64())
        form = CsvForm(times=times)
        source = Source(paths, types, bad_rows or BadRows(), ROW, form)
        if times:
            for index in range(len(paths)):
                self._copy(source, index, copies.copy_text)
        return self._read(source)

    def read_csv(
        self,
        files: Sequence[Path | str],
        columns: Mapping[str, pa.DataType],
        bad_rows: BadRows | None = None,
        form: CsvForm = CsvForm(),
    ) -> ir.Table:
        """Returns a table of typed columns of CSV files with a header.

        The table has the same three additional columns as that of `read_parquet`, but `row` is the
        line number. Files are read once, block by block, and stored as Parquet in the engine's
        folder.

        Args:
            files: the files.
            columns: the types of the columns to read, by name.
            bad_rows: handles bad rows. By default they are rejected.
            form: how the files are written. By default, commas separate the values.

        Raises:
            UserError: a column is missing, a quote is not closed, or `bad_rows` rejects a row. A
                row is bad if it has the wrong number of fields, a value of the wrong type, a value
                with a line break, or text that is not UTF-8.
        """
        source = Source(checked(files, columns), columns, bad_rows or BadRows(), "line", form)
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

        The other rows are rejected, or counted as "<column> <must>".

        Args:
            table: a table from `read_parquet` or `read_csv`, or a table derived from it that still
                has `file`, `row` and `order`.
            valid: an expression of the table that is true for valid rows, or another table that
                lists the allowed values in a column named `column`.
            bad_rows: handles the invalid rows.
            column: the column named in error messages, along with its value.
            must: the rule in words, such as "must not be negative".
        """
        return self.keep_all_valid(table, [Rule(column, must, valid)], bad_rows)

    def keep_all_valid(self, table: ir.Table, rules: Sequence[Rule], bad_rows: BadRows) -> ir.Table:
        """Returns the rows that fulfil all rules. One query checks all rules.

        A row that breaks several rules counts only for the first of them.
        """
        # If an earlier run finished this check before it was killed, the journal has the result.
        query = broken(table, rules)
        key = key_of(bad_rows.policy, self._fingerprint(query), *(rule.reason for rule in rules))
        noted = self.journal.finished(f"check {key}", key)
        if noted:
            violations = noted["found"]
        else:
            violations = self.to_arrow(query).to_pylist()

        # Violations are handled before the check is recorded as finished. If they are an error, the
        # check is therefore repeated the next time.
        if violations:
            self._handle(table, rules, violations, bad_rows)
        if not noted:
            self.journal.finish(f"check {key}", key, {"found": violations})

        return kept(table, rules) if violations else table

    def require_unique(self, table: ir.Table, column: str) -> None:
        """Raises UserError if two rows of a raw table have the same value in `column`."""
        # Of the rows with the same value, the last one is reported.
        counts = table.group_by(column).aggregate(rows=table.count(), first=table[ORDER].max())
        repeated = counts.filter(counts.rows > 1).order_by("first").limit(1)
        rows = self.to_arrow(repeated).to_pylist()
        if rows:
            where = self._where(table, rows[0]["first"])
            raise UserError(f"{where}: the same {column} twice: {shown(str(rows[0][column]))}")

    # For the preparation of a data set

    def materialise(self, name: str, table: ir.Table, key: str = "") -> ir.Table:
        """Computes a table and stores it in the engine's folder.

        If the folder already has a table with this name and key, it is not computed again.

        Args:
            name: the name of the table.
            table: the table to compute.
            key: a hash of all values that decide the content of the table. It need not include the
                settings of the work folder, because the folder is emptied if they change.

        Returns:
            The stored table.
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
            One table for each value, stored in the engine's folder.
        """
        folder = self.folder / "tables" / name
        stage = f"table {name}"
        if self.journal.finished(stage) is None:
            folder.parent.mkdir(exist_ok=True)
            self.journal.finish(stage, files=self.write(table, folder, column))

        # If a value has no rows, there is no folder, and the list of files is empty.
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
        """Computes a small table. The types of its columns are those of its Ibis schema."""

    @abstractmethod
    def batches(self, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
        """Computes a table of any size in batches of about `rows` rows. Keeps the order of rows."""

    @abstractmethod
    def write(self, table: ir.Table, folder: Path, by: str | None = None) -> list[Path]:
        """Computes a table and writes it as Parquet files to a new folder.

        Args:
            table: the table to compute.
            folder: the folder. An existing folder is replaced.
            by: a column of integers. Rows with value v are written to the subfolder "<by>=v",
                without this column.

        Returns:
            The files, in order.
        """

    @abstractmethod
    def table(self, name: str, files: Sequence[Path]) -> ir.Table:
        """Returns a table named `name` that reads Parquet files that the engine wrote."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _define(self, name: str, source: Source) -> ir.Table:
        """Defines the table `name`, or replaces its definition, and returns it.

        The table has the columns of the source, and also `file` (int32) and `row` (int64).
        """

    @abstractmethod
    def _fingerprint(self, table: ir.Table) -> str:
        """Returns a text that identifies an expression, such as its SQL.

        Equal expressions over the same tables have the same text, even in another process.
        """

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
        make: Callable[[Path, Mapping[str, pa.DataType], CsvForm, BadRows, Path], None],
    ) -> None:
        """Makes a source read one of its files from a copy, and counts rows that the copy lacks.

        An earlier copy is used if the file still has the same size and modification time.

        Args:
            source: the source.
            index: the index of the file in the source.
            make: the function that writes the copy.
        """
        # The policy for bad rows is part of the key, because it decides whether rows may be left
        # out of the copy.
        file = source.files[index]
        policy = source.bad_rows.policy
        size = file.stat()
        key = key_of(
            file,
            size.st_size,
            size.st_mtime_ns,
            make.__name__,
            policy,
            source.form,
            *source.columns.items(),
        )
        copy = self.folder / "copies" / f"{key}.parquet"

        noted = self.journal.finished(f"copy {file}", key)
        if noted is None:
            left_out = BadRows(policy, remedy=source.bad_rows.remedy)
            make(file, source.columns, source.form, left_out, copy)
            noted = left_out.dropped
            self.journal.finish(f"copy {file}", key, noted, [copy])

        # The rows that were left out are counted even if the copy was written by an earlier run.
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
        """Rejects the first bad row, or counts the bad rows of each rule.

        Args:
            violations: the rows of the result of `broken`, each with `rule`, `rows` and `first`.
        """
        source = self._source(table)
        for entry in sorted(violations, key=lambda entry: entry["first"]):
            rule = rules[entry["rule"]]
            example = rule.reason

            # Only the message of an error needs the value, so it is queried only then.
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
        """Returns the file and the row or line number of a row, for messages."""
        source = self._source(table)
        file = source.files[order >> ROW_BITS]
        row = order & ((1 << ROW_BITS) - 1)
        return f"{file}, {source.unit} {row}"

    def _file_named_in(self, message: str) -> tuple[Source, int] | None:
        """Finds the raw file that a message of the engine names.

        Returns:
            The source of the file and the index of the file in it, or None if there is no such
            file.
        """
        # Files that have a copy are no longer read, so they cannot have caused the message.
        for source in self._sources.values():
            for index, file in enumerate(source.files):
                if index not in source.copies and str(file) in message:
                    return source, index
        return None
