"""Reads Parquet files, ours and others', and checks every checksum that they have."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.errors import UserError
from torchrec_priors.parquet.checksums import DamagedParquetError, Footer, read_footer
from torchrec_priors.parquet.writing import without_checksums


class ParquetReader:
    """An opened file; use it in a `with` block. A column chunk is checked whenever it is read.

    Attributes:
        schema: schema of its columns.

    Raises:
        DamagedParquetError: from every call, the file is not what was written.
        OSError: from every call, the file cannot be read.
    """

    def __init__(self, file: Path, footer: Footer | None = None) -> None:
        """
        Args:
            footer: the file's footer, if it was read before.
        """
        self._footer = footer or read_footer(file)
        self._opened = pq.ParquetFile(
            file, metadata=self._footer.metadata, page_checksum_verification=True
        )
        # Our own descriptor for the checksums, since Arrow gives none.
        self._handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self.schema: pa.Schema = without_checksums(self._opened.schema_arrow)

    @property
    def metadata(self) -> pq.FileMetaData:
        """What the footer says, parsed."""
        return self._footer.metadata

    @property
    def row_groups(self) -> int:
        """The number of row groups."""
        return int(self.metadata.num_row_groups)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads the whole file."""
        self._check(range(self.row_groups), columns)
        return _plain(self._opened.read(columns=_names(columns)), columns)

    def read_row_group(
        self, group: int, columns: Sequence[str] | None = None, *, use_threads: bool = True
    ) -> pa.Table:
        """Reads one row group."""
        self._check([group], columns)
        table = self._opened.read_row_group(group, columns=_names(columns), use_threads=use_threads)
        return _plain(table, columns)

    def iter_batches(
        self, rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields the whole file, at most `rows` rows at a time.

        Row groups are read and checked when their first rows are requested.
        """
        # Small row groups are read together, so that batches of `rows` rows span them.
        groups: list[int] = []
        rows_in_groups = 0
        for group in range(self.row_groups):
            groups.append(group)
            rows_in_groups += self.metadata.row_group(group).num_rows
            if rows_in_groups < rows and group + 1 < self.row_groups:
                continue

            self._check(groups, columns)
            names = _names(columns)
            batches = self._opened.iter_batches(rows, row_groups=groups, columns=names)
            if columns is not None:
                batches = (batch.select(names) for batch in batches)
            yield from batches
            groups = []
            rows_in_groups = 0

    def close(self) -> None:
        """Closes the file."""
        self._opened.close()
        os.close(self._handle)

    def __enter__(self) -> "ParquetReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, groups: Sequence[int], columns: Sequence[str] | None) -> None:
        """Raises DamagedParquetError if columns are missing or not what was written."""
        for column in columns or []:
            if column not in self.schema.names:
                raise DamagedParquetError(f"it has no column '{column}'")

        # Files of others have no checksums of chunks; Arrow checks those of pages, if there are
        # any.
        if self._footer.chunks is None:
            return
        for group in groups:
            for number in self._column_numbers(columns):
                self._footer.check(self._handle, group, number)

    def _column_numbers(self, columns: Sequence[str] | None) -> list[int]:
        """The numbers of Parquet's columns; None means all.

        A list or a structure may have several, whose paths begin with its name.
        """
        numbers = []
        for number in range(self.metadata.num_columns):
            path: str = self.metadata.schema.column(number).path
            if columns is None or any(
                path == name or path.startswith(f"{name}.") for name in columns
            ):
                numbers.append(number)
        return numbers


def read_table(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a whole file.

    Raises:
        DamagedParquetError: it is not what was written, or not a Parquet file.
        OSError: it cannot be read.
    """
    with ParquetReader(file) as opened:
        return opened.read(columns)


def read_schema(file: Path) -> pa.Schema:
    """Reads the columns of a file; raises the same errors as `read_table`."""
    return without_checksums(read_footer(file).metadata.schema.to_arrow_schema())


@contextmanager
def readable(file: object, remedy: str) -> Iterator[None]:
    """Turns errors of the block, which reads one of our files, into one line.

    Args:
        file: the file, for messages.
        remedy: what a user can do about it; it ends the message.

    Raises:
        UserError: it is missing, damaged or cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: {remedy}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{file}' cannot be read ({reason}): {remedy}") from error


def _names(columns: Sequence[str] | None) -> list[str] | None:
    """Columns as Arrow takes them, which wants a list."""
    return None if columns is None else list(columns)


def _plain(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """The table with its columns in the requested order, and without the file's checksums."""
    table = table.replace_schema_metadata(without_checksums(table.schema).metadata)
    # Arrow gives columns in the order of the file.
    return table if columns is None else table.select(_names(columns))
