"""Writing Parquet files: zstd, with checksums of pages, of column chunks and of the footer."""

import io
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.parquet.checksums import CHECKSUMS, blank, fill_in

_ROWS = 1 << 20  # of a row group, where the caller does not say


class ParquetWriter:
    """Writes tables one after another; the file is whole after `close`. In a `with` block that ends by an error, it is
    closed without its checksums, so that nobody takes it for one of ours.

    The file's bytes depend on the tables and the sizes of the row groups alone.
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
        """Row groups of so many rows, the last one of fewer."""
        self._groups += max(1, -(-len(table) // row_group_size))
        table = table.replace_schema_metadata(self._schema.metadata)
        self._writer.write_table(table, row_group_size=max(1, row_group_size))

    def close(self) -> None:
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
        """Closes a file that nobody is to read."""
        with suppress(OSError):  # what ended the writing, as a full disk, is raised already
            self._writer.close()


def write_table(table: pa.Table, file: Path, row_group_size: int = _ROWS) -> None:
    """One table as a file."""
    with ParquetWriter(file, table.schema) as writer:
        writer.write_table(table, row_group_size)


def without_checksums(schema: pa.Schema) -> pa.Schema:
    """A schema that was read from a file of ours, without what its footer says of that file's bytes."""
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != CHECKSUMS}
    return schema.with_metadata(metadata or None)


def _leaves(schema: pa.Schema) -> int:
    """How many columns Parquet makes of a schema."""
    stream = io.BytesIO()
    pq.write_metadata(schema, stream)
    return int(pq.read_metadata(stream).num_columns)
