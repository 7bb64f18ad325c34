"""A Parquet file whose rows any rank may add in any order; it appears sorted, when it is complete.

Rows are first written to buckets of consecutive numbers, one file a bucket and rank, in a folder
next to the file that all ranks see. Then rank 0 sorts one bucket after another. A rank holds about
`_ENTRIES` list entries at a time, and at most 1 / `_BUCKETS` of all.
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

_ENTRIES = 1 << 20
_BUCKETS = 256  # the number of files that a rank has open at most
_NUMBER = "number"


class OrderedFile:
    """Use it in a `with` block: `add` on every rank, then `finish` on every rank."""

    def __init__(self, file: Path, rows: int, entries_a_row: int, ranks: Ranks) -> None:
        """
        Args:
            rows: the number of rows, which are numbered from 0.
            entries_a_row: length of a row's longest list.
        """
        self.file = file
        self.rows = rows
        self.ranks = ranks
        self.folder = file.with_name(f".{file.name}.partial")
        self._rows_at_a_time = max(1, _ENTRIES // entries_a_row)
        # A bucket is what rank 0 sorts at a time: at least a full write, and not too many files.
        self._bucket = max(self._rows_at_a_time, -(-rows // _BUCKETS))
        self._waiting: list[pa.Table] = []
        self._spills: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def __enter__(self) -> "OrderedFile":
        if self.ranks.leads:
            with self._explaining():
                check_replaceable(self.file)
                remove_leftover(self.folder)
                self.folder.mkdir()
        # The other ranks write into the folder.
        dist.barrier(self.ranks.side)
        return self

    def add(self, table: pa.Table, numbers: np.ndarray) -> None:
        """Adds rows of this rank, with their numbers."""
        # Small tables are collected: a spill has some overhead.
        self._waiting.append(table.append_column(_NUMBER, pa.array(numbers, pa.int64())))
        if sum(map(len, self._waiting)) >= self._rows_at_a_time:
            with self._explaining():
                self._spill()

    def finish(self) -> None:
        """Moves the complete file to its place."""
        with self._explaining():
            self._spill()
            self._close()
        # Rank 0 reads what all ranks wrote; nobody goes on before the file is there.
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
            # The error that ended the block is already on its way: a second one would hide it.
            with suppress(OSError):
                self._close()
        if self.ranks.leads:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _spill(self) -> None:
        """Writes the waiting rows to their buckets."""
        if not self._waiting:
            return

        table = pa.concat_tables(self._waiting).sort_by(_NUMBER)
        self._waiting = []
        bucket = table[_NUMBER].to_numpy() // self._bucket
        # The rows are sorted, so those of a bucket are a slice.
        for number in np.unique(bucket).tolist():
            first, last = np.searchsorted(bucket, [number, number + 1]).tolist()
            # A bucket's file stays open until the end: no rank opens it twice.
            if number not in self._spills:
                options = pa.ipc.IpcWriteOptions(compression="zstd")
                self._spills[number] = pa.ipc.new_stream(
                    str(self._path(number, self.ranks.rank)), table.schema, options=options
                )
            self._spills[number].write_table(table.slice(first, last - first))

    def _merge(self) -> None:
        """Sorts one bucket of all ranks after another into the file."""
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
                # Every bucket has rows, as all numbers below `self.rows` are added.
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
        # Checked again, as something may have appeared there meanwhile.
        check_replaceable(self.file)
        whole.replace(self.file)

    def _path(self, bucket: int, rank: int) -> Path:
        return self.folder / f"{bucket:03d}-{rank:05d}.arrow"

    def _close(self) -> None:
        while self._spills:
            _, spill = self._spills.popitem()
            spill.close()

    def _explaining(self) -> AbstractContextManager[None]:
        return explaining(f"--out: cannot write '{self.file}'")
