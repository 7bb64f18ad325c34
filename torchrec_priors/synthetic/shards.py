"""Writes a table piece by piece into numbered Parquet files in one folder.

Large logs are often published in this form.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from torchrec_priors.parquet import ParquetWriter


class Shards:
    """The files `000000000000.parquet`, `000000000001.parquet` and so on in a folder.

    The folder is created with the first file. A file is closed as soon as it has `rows` rows or
    more. An empty piece creates no file.

    Args:
        folder: The folder.
        schema: The schema of all files.
        rows: The minimum number of rows in every file except the last one.
    """

    def __init__(self, folder: Path, schema: pa.Schema, rows: int) -> None:
        self.folder = folder
        self.schema = schema
        self.rows = rows
        self.files = 0
        self.filled = 0
        self.writer: ParquetWriter | None = None

    def write(self, piece: pa.Table) -> None:
        """Appends a piece to the current file, or to a new one."""
        if not piece.num_rows:
            return

        if self.writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{self.files:012d}.parquet"
            self.writer = ParquetWriter(file, self.schema)
            self.files = self.files + 1
            self.filled = 0

        self.writer.write_table(piece)
        self.filled += piece.num_rows
        if self.filled >= self.rows:
            self.close()

    def close(self) -> None:
        """Closes the current file, if there is one."""
        if self.writer is not None:
            self.writer.close()
        self.writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
