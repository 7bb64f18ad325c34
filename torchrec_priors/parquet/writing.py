"""Writes Parquet files: zstd, with checksums of pages, of column chunks and of the footer."""

import io
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.parquet.checksums import CHECKSUMS, blank, fill_in

# Rows of a row group by default.
_ROWS = 1 << 20


class ParquetWriter:
    """Writes tables one after another; the file is complete after `close`.

    If a `with` block ends by an error, the file is closed without its checksums, so it cannot be
    mistaken for one of ours. The file's bytes depend only on the tables and the sizes of the row
    groups.
    """

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._file = file
        self._schema = without_checksums(schema)
        self._writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", write_page_checksum=True
        )
        self._columns = _leaves(self._schema)
        self._groups = 0

    def write_table(self, table: pa.Table, row_group_size: int = _ROWS) -> None:
        """Writes a table in row groups of `row_group_size` rows; the last one may have fewer."""
        # An empty table is one row group, too.
        self._groups += max(1, -(-len(table) // row_group_size))
        table = table.replace_schema_metadata(self._schema.metadata)
        self._writer.write_table(table, row_group_size=max(1, row_group_size))

    def close(self) -> None:
        """Completes the file."""
        # The footer reserves room for the checksums, which are known once the footer is written.
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
        """Closes a file that must not be read."""
        # The error that ended the writing, such as a full disk, is raised already.
        with suppress(OSError):
            self._writer.close()


def write_table(table: pa.Table, file: Path, row_group_size: int = _ROWS) -> None:
    """Writes one table as a file."""
    with ParquetWriter(file, table.schema) as writer:
        writer.write_table(table, row_group_size)


def without_checksums(schema: pa.Schema) -> pa.Schema:
    """A schema that was read from one of our files, without that file's checksums."""
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != CHECKSUMS}
    return schema.with_metadata(metadata or None)


def _leaves(schema: pa.Schema) -> int:
    """The number of Parquet's columns for a schema."""
    # A list or a structure becomes several columns: Parquet itself counts them.
    stream = io.BytesIO()
    pq.write_metadata(schema, stream)
    return int(pq.read_metadata(stream).num_columns)
