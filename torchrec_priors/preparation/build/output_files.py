"""The files of a data set that is being made: each is a stage, so that one that is whole is not written again."""

from collections.abc import Callable, Iterable
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.preparation.build.parquet_files import write_batches, write_table
from torchrec_priors.preparation.engine.engine import Engine


class OutputFiles:
    """Args: folder: of the data set, in the engine's folder.

    Attributes:
        paths: of all files so far.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.paths: list[Path] = []

    def write(self, name: str, table: ir.Table) -> None:
        """A table in its own order."""
        self.make(name, lambda file: write_table(self.engine, file, table))

    def write_batches(
        self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> None:
        self.make(name, lambda file: write_batches(file, schema, batches))

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """A file that `write` writes, whose folder is there."""
        file = self.folder / name
        if not self.is_finished(name):
            file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(file) as partial:
                write(partial)
            self.engine.journal.finish(name, files=[file])
        self.paths.append(file)

    def is_finished(self, name: str) -> bool:
        return self.engine.journal.finished(name) is not None
