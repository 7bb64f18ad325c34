"""Writes a sorted Parquet file from rows that all ranks add in any order.

Each row has a number. The numbers are divided into buckets of consecutive numbers. First, each rank
writes its rows into one file for each bucket, in a folder that all ranks can access. Then rank 0
sorts one bucket after another into the final file. So no rank has many rows in memory: about
`_ENTRIES` list entries while rows are added, and one bucket while they are sorted.
"""

import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from torchrec_priors.common.files import check_replaceable, remove_leftover
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.ranks.process import Ranks

_ENTRIES = 1 << 20  # list entries that are collected before they are written
_BUCKETS = 256  # at most; a rank has a file open for each bucket
_NUMBER = "number"  # the column with the numbers of the rows


class OrderedFile:
    """A sorted Parquet file, which appears under its name only when it is complete.

    It is used in a `with` block: every rank calls `add` any number of times, and `finish` once.
    """

    def __init__(self, file: Path, rows: int, entries_a_row: int, ranks: Ranks) -> None:
        """
        Args:
            file: the file.
            rows: the number of rows of all ranks; rows are numbered from 0.
            entries_a_row: the length of the longest list in a row.
            ranks: all ranks.
        """
        self.file = file
        self.rows = rows
        self.ranks = ranks
        self.folder = file.with_name(f".{file.name}.partial")
        self._rows_at_a_time = max(1, _ENTRIES // entries_a_row)
        # The rows in a bucket: at least those of one write, and more if there would otherwise be
        # more than `_BUCKETS` buckets.
        self._bucket = max(self._rows_at_a_time, -(-rows // _BUCKETS))
        self._waiting: list[pa.Table] = []
        self._spills: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def __enter__(self) -> "OrderedFile":
        if self.ranks.leads:
            with self._explaining():
                check_replaceable(self.file)
                remove_leftover(self.folder)
                self.folder.mkdir()
        # The other ranks wait until the folder exists.
        dist.barrier(self.ranks.side)
        return self

    def add(self, table: pa.Table, numbers: np.ndarray) -> None:
        """Adds rows, which have the given numbers."""
        # Small tables are collected, as each write takes some time.
        self._waiting.append(table.append_column(_NUMBER, pa.array(numbers, pa.int64())))
        if sum(map(len, self._waiting)) >= self._rows_at_a_time:
            with self._explaining():
                self._spill()

    def finish(self) -> None:
        """Sorts the rows of all ranks into the file, which then appears under its name."""
        with self._explaining():
            self._spill()
            self._close()
        # Rank 0 waits until all ranks have written their rows. Then all ranks wait for the file.
        dist.barrier(self.ranks.side)
        if self.ranks.leads:
            with self._explaining():
                self._merge()
        dist.barrier(self.ranks.side)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            # A second error would hide the error that ended the block.
            with suppress(OSError):
                self._close()
        if self.ranks.leads:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _spill(self) -> None:
        """Writes the collected rows into the files of their buckets."""
        if not self._waiting:
            return

        table = pa.concat_tables(self._waiting).sort_by(_NUMBER)
        self._waiting = []
        bucket = table[_NUMBER].to_numpy() // self._bucket
        # The rows are sorted, so the rows of a bucket are a slice.
        for number in np.unique(bucket).tolist():
            first, last = np.searchsorted(bucket, [number, number + 1]).tolist()
            # The file of a bucket stays open, as opening it again would overwrite it.
            if number not in self._spills:
                options = pa.ipc.IpcWriteOptions(compression="zstd")
                self._spills[number] = pa.ipc.new_stream(
                    str(self._path(number, self.ranks.rank)), table.schema, options=options
                )
            self._spills[number].write_table(table.slice(first, last - first))

    def _merge(self) -> None:
        """Sorts the rows of all ranks into the file, one bucket after another."""
        whole = self.folder / "whole.parquet"
        written = 0
        writer: ParquetWriter | None = None
        try:
            for bucket in range(-(-self.rows // self._bucket)):
                spills = [self._path(bucket, rank) for rank in range(self.ranks.world)]
                tables = [
                    pa.ipc.open_stream(spill.read_bytes()).read_all()
                    for spill in spills
                    if spill.exists()
                ]
                # No bucket is empty, as each number below `self.rows` must have been added.
                rows = pa.concat_tables(tables).sort_by(_NUMBER)

                numbers = rows[_NUMBER].to_numpy()
                assert np.array_equal(numbers, np.arange(written, written + len(rows))), (
                    "a row is missing or there twice"
                )
                written += len(rows)

                rows = rows.drop_columns([_NUMBER])
                writer = writer or ParquetWriter(whole, rows.schema)
                writer.write_table(rows, row_group_size=len(rows))
        finally:
            if writer is not None:
                writer.close()

        assert written == self.rows, f"{written} rows of {self.rows}"
        # This is checked again, as the path may have been used in the meantime.
        check_replaceable(self.file)
        whole.replace(self.file)

    def _path(self, bucket: int, rank: int) -> Path:
        """Returns the file of a rank's rows in a bucket."""
        return self.folder / f"{bucket:03d}-{rank:05d}.arrow"

    def _close(self) -> None:
        """Closes the files of all buckets."""
        while self._spills:
            _, spill = self._spills.popitem()
            spill.close()

    def _explaining(self) -> AbstractContextManager[None]:
        """Turns an error of the file system into a message that names the output file."""
        return explaining(f"--out: cannot write '{self.file}'")
