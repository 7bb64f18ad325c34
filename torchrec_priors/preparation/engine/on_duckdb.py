"""Implements an engine with DuckDB.

It runs in one process and stays within a memory limit. The data may be larger than memory.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.amounts import in_bytes
from torchrec_priors.common.files import remove_leftover
from torchrec_priors.common.system_errors import blame_the_system, is_in_vain
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.copies import copy_text
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.memory import OutOfMemoryError
from torchrec_priors.preparation.engine.source import Source

T = TypeVar("T")

MEMORY = "2GB"
# These errors report a type that cannot be stored, or a value that does not fit into another type.
_TYPE_ERRORS = (
    duckdb.ConversionException,
    duckdb.NotImplementedException,
    duckdb.OutOfRangeException,
    pa.ArrowNotImplementedError,
)
# An estimate of the memory that sorting a row takes. It is large enough that a bucket is sorted
# without writing rows to the disk.
_BYTES_A_ROW = 512


class DuckDB(Engine):
    """DuckDB as an engine.

    Args:
        folder: the folder for the engine's files, as in `Engine`.
        memory: the memory limit, such as "2GB". DuckDB writes data that exceeds it to the folder.
    """

    name = "duckdb"

    def __init__(self, folder: Path, memory: str = MEMORY) -> None:
        super().__init__(folder)
        self.rows_a_bucket = in_bytes(memory) // _BYTES_A_ROW

        # A killed run may have left data here.
        spill = folder / "spill"
        shutil.rmtree(spill, ignore_errors=True)
        spill.mkdir()

        # DuckDB's file cache is off, because it would keep the content of files until memory is
        # full.
        self.connection = ibis.duckdb.connect(
            memory_limit=memory,
            temp_directory=str(spill),
            preserve_insertion_order=False,
            enable_external_file_cache=False,
        )

    def to_arrow(self, table: ir.Table) -> pa.Table:
        return self._run(lambda: self.connection.to_pyarrow(table))

    def batches(self, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
        # A failed query is not repeated after the first batch, because rows would be yielded twice.
        has_begun = False
        while True:
            try:
                for batch in self.connection.to_pyarrow_batches(table, chunk_size=rows):
                    has_begun = True
                    yield batch
                return
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                self._remedy(error)
                if has_begun:
                    raise

    def write(self, table: ir.Table, folder: Path, by: str | None = None) -> list[Path]:
        partial = folder.with_name(f".{folder.name}.partial")
        target = partial / "part-00000.parquet"
        options = "FORMAT parquet, COMPRESSION zstd"
        if by is not None:
            target = partial
            options = f"{options}, PARTITION_BY ({_quoted(by)})"

        def write() -> None:
            remove_leftover(partial)
            partial.mkdir(parents=True)
            self.connection.raw_sql(
                f"COPY ({self._typed(table)}) TO {_literal(target)} ({options})"
            )

        # The folder is renamed when it is complete, so it never exists with only some of its files.
        self._run(write)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        return sorted(folder.rglob("*.parquet"))

    def table(self, name: str, files: Sequence[Path]) -> ir.Table:
        self._view(name, f"SELECT * FROM {_parquet(files)}")
        return self.connection.table(name)

    def close(self) -> None:
        self.connection.disconnect()
        shutil.rmtree(self.folder / "spill", ignore_errors=True)

    def _define(self, name: str, source: Source) -> ir.Table:
        columns = ", ".join(map(_quoted, source.columns))
        originals = [index for index in range(len(source.files)) if index not in source.copies]
        selects = [
            f'SELECT {columns}, {index}::INTEGER AS "file", "row" FROM {_parquet([copy])}'
            for index, copy in source.copies.items()
        ]

        if originals:
            # DuckDB numbers the files that it reads. If some files of the source have copies, these
            # numbers differ from those of the source, and a list translates them.
            number = "file_index"
            if selects:
                number = f"{originals}[file_index::BIGINT + 1]"
            selects.append(
                f'SELECT {columns}, ({number})::INTEGER AS "file", file_row_number + 1 AS "row"'
                f" FROM {_parquet([source.files[index] for index in originals])}"
            )
        self._view(name, " UNION ALL ".join(selects))

        # All texts are read now, to find text that is not UTF-8. Rows with such text must be
        # dropped before any query counts them.
        texts = [column for column, kind in source.columns.items() if pa.types.is_string(kind)]
        if originals and texts and source.bad_rows.policy == "drop":
            lengths = ", ".join(f"sum(strlen({_quoted(text)}))" for text in texts)
            query = f"SELECT {lengths} FROM {_quoted(name)}"
            self._run(lambda: self.connection.con.execute(query).fetchall())

        return self.connection.table(name)

    def _typed(self, table: ir.Table) -> str:
        """Returns a query that casts all columns to the types of the Ibis schema.

        Without the casts, DuckDB returns wider types for sums.
        """
        self.connection._run_pre_execute_hooks(table)
        kinds = self.connection.compiler.type_mapper
        columns = (
            f"CAST({_quoted(name)} AS {kinds.to_string(kind)}) AS {_quoted(name)}"
            for name, kind in table.schema().items()
        )
        return f"SELECT {', '.join(columns)} FROM ({self.connection.compile(table)})"

    def _fingerprint(self, table: ir.Table) -> str:
        return str(self.connection.compile(table))

    def _view(self, name: str, query: str) -> None:
        statement = f"CREATE OR REPLACE TEMP VIEW {_quoted(name)} AS {query}"
        self._run(lambda: self.connection.raw_sql(statement))

    def _run(self, query: Callable[[], T]) -> T:
        """Runs a query. Errors caused by raw files, the disk or memory are raised as UserError."""
        while True:
            try:
                return query()
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                self._remedy(error)

    def _remedy(self, error: Exception) -> None:
        """Removes the cause of a failed query, so that it can be repeated, or raises an error."""
        # DuckDB also reports a full disk as a lack of memory. More memory would not help then.
        message = str(error).splitlines()[0]
        if isinstance(error, duckdb.OutOfMemoryException) and not is_in_vain(error):
            raise OutOfMemoryError(f"--memory: not enough ({message}): give more") from error

        # If a raw file is the cause, DuckDB's message contains its name.
        match = self._file_named_in(message)
        if match is None and isinstance(error, _TYPE_ERRORS):
            raise UserError(
                f"a table of the corpus cannot be computed ({message}): "
                "cast its columns to text, integers or floats"
            ) from error
        if match is None:
            raise error

        source, index = match
        blame_the_system(error, f"--raw: cannot read '{source.files[index]}'")
        if "not valid UTF8" not in message:
            raise UserError(f"{source.files[index]} cannot be read ({message})") from error

        # From now on, the source reads a copy from which rows with invalid text are left out.
        self._copy(source, index, copy_text)
        name = next(name for name, other in self._sources.items() if other is source)
        self._define(name, source)


@contextmanager
def temporary() -> Iterator[DuckDB]:
    """Starts an engine for small tables. All of its files are removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        engine = DuckDB(Path(folder))
        try:
            yield engine
        finally:
            engine.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _parquet(files: Sequence[Path]) -> str:
    # Without this option, a folder named "a=b" would add a column.
    names = ", ".join(map(_literal, files))
    return f"read_parquet([{names}], hive_partitioning = false)"
