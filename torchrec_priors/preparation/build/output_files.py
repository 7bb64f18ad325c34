"""The files of a data set that is being built.

Each is a stage: a file that is complete is not written again.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.preparation.build.parquet_files import write_batches, write_table
from torchrec_priors.preparation.engine.engine import Engine


class OutputFiles:
    """Writes the files of a data set.

    Args:
        folder: folder of the data set, in the engine's folder.

    Attributes:
        paths: the paths of all files so far.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.paths: list[Path] = []

    def write(self, name: str, table: ir.Table) -> None:
        """Writes a table in its own order."""
        self.make(name, lambda file: write_table(self.engine, file, table))

    def write_batches(
        self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> None:
        """Writes rows that come in batches."""
        self.make(name, lambda file: write_batches(file, schema, batches))

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """Calls `write` with a path in a folder that exists; skips a file that is complete."""
        file = self.folder / name
        if not self.is_finished(name):
            file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(file) as partial:
                write(partial)
            # After the file is in its place: a kill in between writes it once more.
            self.engine.journal.finish(name, files=[file])
        self.paths.append(file)

    def is_finished(self, name: str) -> bool:
        return self.engine.journal.finished(name) is not None
