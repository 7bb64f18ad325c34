"""Reads Parquet files and compares every checksum that they contain.

The files may have been written by `writing.py` or by other programs.
"""

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
    """An opened Parquet file, for use in a `with` block.

    The checksum of a column chunk is compared whenever the chunk is read.

    Attributes:
        schema: the schema of the columns.

    Raises:
        DamagedParquetError: from every call, if the file is damaged.
        OSError: from every call, if the file cannot be read.
    """

    def __init__(self, file: Path, footer: Footer | None = None) -> None:
        """Opens the file.

        Args:
            footer: the footer of the file, if it has already been read.
        """
        self._footer = footer or read_footer(file)
        self._opened = pq.ParquetFile(
            file, metadata=self._footer.metadata, page_checksum_verification=True
        )
        # The checksums need a file descriptor, and Arrow does not expose the one that it uses.
        self._handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self.schema: pa.Schema = without_checksums(self._opened.schema_arrow)

    @property
    def metadata(self) -> pq.FileMetaData:
        """The parsed footer."""
        return self._footer.metadata

    @property
    def row_groups(self) -> int:
        """The number of row groups."""
        return int(self.metadata.num_row_groups)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads the whole file."""
        self._check(range(self.row_groups), columns)
        return _requested(self._opened.read(columns=_names(columns)), columns)

    def read_row_group(
        self, group: int, columns: Sequence[str] | None = None, *, use_threads: bool = True
    ) -> pa.Table:
        """Reads one row group."""
        self._check([group], columns)
        table = self._opened.read_row_group(group, columns=_names(columns), use_threads=use_threads)
        return _requested(table, columns)

    def iter_batches(
        self, rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields the whole file in batches of at most `rows` rows.

        A row group is read and checked when its first rows are requested.
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
        """Raises DamagedParquetError if columns are missing or damaged."""
        for column in columns or []:
            if column not in self.schema.names:
                raise DamagedParquetError(f"it has no column '{column}'")

        # Files from other programs have no checksums of column chunks. If their pages have
        # checksums, Arrow compares them.
        if self._footer.chunks is None:
            return
        for group in groups:
            for number in self._column_numbers(columns):
                self._footer.check(self._handle, group, number)

    def _column_numbers(self, columns: Sequence[str] | None) -> list[int]:
        """Returns the numbers that Parquet gives to the requested columns; None means all columns.

        Parquet may store a list or a structure as several columns. The path of each of them begins
        with the name of the list or structure.
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
        DamagedParquetError: the file is damaged, or is not a Parquet file.
        OSError: the file cannot be read.
    """
    with ParquetReader(file) as opened:
        return opened.read(columns)


def read_schema(file: Path) -> pa.Schema:
    """Reads the schema of a file. Raises the same errors as `read_table`."""
    return without_checksums(read_footer(file).metadata.schema.to_arrow_schema())


@contextmanager
def readable(file: object, remedy: str) -> Iterator[None]:
    """Runs a block that reads one of our files, and turns its errors into one-line messages.

    Args:
        file: the file, for messages.
        remedy: the end of the message, which says what a user can do about the error.

    Raises:
        UserError: the file is missing or damaged, or cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: {remedy}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{file}' cannot be read ({reason}): {remedy}") from error


def _names(columns: Sequence[str] | None) -> list[str] | None:
    """Returns the columns as a list, the only sequence that Arrow accepts; None stays None."""
    return None if columns is None else list(columns)


def _requested(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Returns the table with its columns in the requested order, without the file's checksums."""
    table = table.replace_schema_metadata(without_checksums(table.schema).metadata)
    # Arrow returns the columns in the order of the file.
    return table if columns is None else table.select(_names(columns))
