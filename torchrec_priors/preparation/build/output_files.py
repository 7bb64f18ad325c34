"""Writes the files of a data set that is being built.

Each file is a stage. A complete file is not written again after a kill.
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
        folder: the folder of the data set. It is in the engine's folder.

    Attributes:
        paths: the paths of all files that have been written so far.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.paths: list[Path] = []

    def write(self, name: str, table: ir.Table) -> None:
        """Writes a table with its rows in order."""
        self.make(name, lambda file: write_table(self.engine, file, table))

    def write_batches(
        self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> None:
        """Writes rows that come in batches."""
        self.make(name, lambda file: write_batches(file, schema, batches))

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """Calls `write` with a path in an existing folder, unless the file is already complete."""
        file = self.folder / name
        if not self.is_finished(name):
            file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(file) as partial:
                write(partial)
            # The stage is finished only when the file is in its place. If the process is
            # killed between the two steps, the file is written once more.
            self.engine.journal.finish(name, files=[file])
        self.paths.append(file)

    def is_finished(self, name: str) -> bool:
        return self.engine.journal.finished(name) is not None
