"""Reading Parquet files, ours and others', with a look at every checksum that they have."""

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
        schema: of its columns.

    Raises:
        DamagedParquetError: from every call, the file is not what was written.
        OSError: from every call, the file cannot be read.
    """

    def __init__(self, file: Path, footer: Footer | None = None) -> None:
        """
        Args:
            footer: of the file, where it was read before.
        """
        self._footer = footer or read_footer(file)
        self._opened = pq.ParquetFile(
            file, metadata=self._footer.metadata, page_checksum_verification=True
        )
        self._handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self.schema: pa.Schema = without_checksums(self._opened.schema_arrow)

    @property
    def metadata(self) -> pq.FileMetaData:
        return self._footer.metadata

    @property
    def row_groups(self) -> int:
        """How many there are."""
        return int(self.metadata.num_row_groups)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole file."""
        self._check(range(self.row_groups), columns)
        return _plain(self._opened.read(columns=_names(columns)), columns)

    def read_row_group(
        self, group: int, columns: Sequence[str] | None = None, *, use_threads: bool = True
    ) -> pa.Table:
        """One row group."""
        self._check([group], columns)
        table = self._opened.read_row_group(group, columns=_names(columns), use_threads=use_threads)
        return _plain(table, columns)

    def iter_batches(
        self, rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The whole file, at most `rows` rows at a time; what is not asked for yet is neither read nor checked."""
        some: list[int] = []
        held = 0
        for group in range(self.row_groups):
            some.append(group)
            held += self.metadata.row_group(group).num_rows
            if held < rows and group + 1 < self.row_groups:
                continue
            self._check(some, columns)
            batches = self._opened.iter_batches(rows, row_groups=some, columns=_names(columns))
            yield from (
                batches if columns is None else (batch.select(_names(columns)) for batch in batches)
            )
            some = []
            held = 0

    def close(self) -> None:
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
        for column in columns or []:
            if column not in self.schema.names:
                raise DamagedParquetError(f"it has no column '{column}'")
        if self._footer.chunks is None:
            return
        for group in groups:
            for number in self._wanted(columns):
                self._footer.check(self._handle, group, number)

    def _wanted(self, columns: Sequence[str] | None) -> list[int]:
        """Numbers of Parquet's columns, of which a list or a structure of ours may have several."""
        paths: list[str] = [
            self.metadata.schema.column(number).path for number in range(self.metadata.num_columns)
        ]
        return [
            number
            for number, path in enumerate(paths)
            if columns is None
            or any(path == name or path.startswith(f"{name}.") for name in columns)
        ]


def read_table(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file.

    Raises:
        DamagedParquetError: it is not what was written, or no Parquet file.
        OSError: it cannot be read.
    """
    with ParquetReader(file) as opened:
        return opened.read(columns)


def read_schema(file: Path) -> pa.Schema:
    """The columns of a file; raises as `read_table`."""
    return without_checksums(read_footer(file).metadata.schema.to_arrow_schema())


@contextmanager
def readable(file: object, remedy: str) -> Iterator[None]:
    """In the block a file is read that must be one of ours; `remedy` ends the message where it is not.

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
    return None if columns is None else list(columns)


def _plain(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """In the order of the columns, without what the footer says of the file's bytes."""
    table = table.replace_schema_metadata(without_checksums(table.schema).metadata)
    return table if columns is None else table.select(_names(columns))
