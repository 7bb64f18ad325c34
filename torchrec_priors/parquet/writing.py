"""Writes Parquet files, compressed by zstd, with checksums of pages, column chunks and footer."""

import io
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.parquet.checksums import CHECKSUMS, blank, fill_in

# The default number of rows in a row group.
_ROWS = 1 << 20


class ParquetWriter:
    """Writes tables to a file, one after another. The file is complete after `close`.

    If a `with` block ends with an error, the file is closed without its checksums, so it cannot be
    mistaken for a complete file. The bytes of the file depend only on the tables and the sizes of
    the row groups.
    """

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._file = file
        self._schema = without_checksums(schema)
        self._writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", write_page_checksum=True
        )
        self._columns = _parquet_columns(self._schema)
        self._groups = 0

    def write_table(self, table: pa.Table, row_group_size: int = _ROWS) -> None:
        """Writes a table in row groups of `row_group_size` rows; the last one may have fewer."""
        # Even an empty table is written as one row group.
        self._groups += max(1, -(-len(table) // row_group_size))
        table = table.replace_schema_metadata(self._schema.metadata)
        self._writer.write_table(table, row_group_size=max(1, row_group_size))

    def close(self) -> None:
        """Completes the file."""
        # The footer reserves room for the checksums, because they can only be computed from the
        # complete file.
        self._writer.add_key_value_metadata(
            {CHECKSUMS.decode(): blank(self._groups * self._columns)}
        )
        self._writer.close()
        fill_in(self._file)

    def __enter__(self) -> "ParquetWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Closes an incomplete file, which must not be read."""
        # The error that ended the writing, for example a full disk, has already been raised.
        with suppress(OSError):
            self._writer.close()


def write_table(table: pa.Table, file: Path, row_group_size: int = _ROWS) -> None:
    """Writes one table as a file."""
    with ParquetWriter(file, table.schema) as writer:
        writer.write_table(table, row_group_size)


def without_checksums(schema: pa.Schema) -> pa.Schema:
    """Returns the schema without the checksums, which belong only to the file it was read from."""
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != CHECKSUMS}
    return schema.with_metadata(metadata or None)


def _parquet_columns(schema: pa.Schema) -> int:
    """Returns the number of columns that Parquet stores for a schema."""
    # A list or a structure may become several columns, so Parquet has to count them.
    stream = io.BytesIO()
    pq.write_metadata(schema, stream)
    return int(pq.read_metadata(stream).num_columns)
