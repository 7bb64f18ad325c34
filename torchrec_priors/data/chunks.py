"""Reads chunks of row groups; threads decode the next chunk while the current one is used."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.order import Chunk, Cuts
from torchrec_priors.data.ties import Ties
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import COLUMN_TYPES, Columns


@dataclass(frozen=True)
class Part:
    """Windows of one chunk, with the columns of the chunk.

    Attributes:
        windows: the windows, as indices into the columns.
        columns: the columns of all row groups in the chunk.
    """

    windows: Cuts
    columns: Columns

    def read(self, chosen: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Returns the columns of the chosen windows, one window after another, as int64."""
        index = ranges(self.windows.start[chosen], self.windows.length[chosen])
        return {name: values[index].astype(np.int64) for name, values in self.columns.items()}

    def detached(self) -> "Part":
        """Returns the same windows with copies of their values, so the chunk's memory can be freed.

        The copies have only the items of these windows, so the windows start at other indices.
        """
        windows = self.windows
        index = ranges(windows.start, windows.length)
        start = np.cumsum(windows.length) - windows.length
        moved = Cuts(windows.user, start, windows.length, windows.context)
        return Part(moved, {name: values[index] for name, values in self.columns.items()})


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Returns the numbers of all ranges, one range after another.

    A range consists of `length` numbers: start, start + 1 and so on.

    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    # One count runs through all ranges. In each range it is shifted so that it begins at `start`.
    first = np.cumsum(length) - length
    return np.repeat(start - first, length) + np.arange(length.sum())


def read_chunks(
    data: PreparedData,
    chunks: Iterator[Chunk],
    columns: Sequence[str],
    workers: int,
    ties: Ties | None = None,
) -> Generator[tuple[Chunk, Columns], None, None]:
    """Yields every chunk with its columns, in the types in which they are stored.

    With threads, the next chunk is decoded while the current one is used, so two chunks are in
    memory. Without threads, a chunk is decoded when it is requested, and only one is in memory.
    Every row group is decoded once. Close the iterator to end the threads.

    Args:
        data: the prepared data set.
        chunks: the chunks. If there are threads, the iterator must not end.
        columns: the columns to read in addition to `items`.
        workers: the number of threads.
        ties: reorders interactions that have equal times; None keeps the stored order.
    """
    decoder = _Decoder(data, tuple(columns), ties)
    if not workers:
        for chunk in chunks:
            yield chunk, decoder.decode(chunk)
        return

    pool = ThreadPoolExecutor(workers, thread_name_prefix="row-groups")
    try:
        pending = _PendingChunk(decoder, next(chunks), pool)
        while True:
            chunk, values = pending.result()
            # Decoding of the next chunk starts before this chunk is used.
            pending = _PendingChunk(decoder, next(chunks), pool)
            yield chunk, values
            # It is freed here, so that at most two chunks are in memory.
            del values
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Decoder:
    """Decodes chunks, one row group at a time.

    Ties are shuffled when a row group is decoded, because it has the whole histories of its users.
    """

    data: PreparedData
    columns: tuple[str, ...]
    ties: Ties | None

    def decode(self, chunk: Chunk) -> Columns:
        """Returns the requested columns of a chunk."""
        values = self.allocate(chunk)
        for group, parts in _parts_by_group(chunk, values):
            self.read_group(group, chunk.epoch, parts)
        return self.requested(values)

    def allocate(self, chunk: Chunk) -> Columns:
        """Allocates the arrays for a chunk's columns, including `timestamps` if ties need them."""
        names = {"items", *self.columns}
        if self.ties is not None:
            names.add("timestamps")
        # Columns are in the order of COLUMN_TYPES, as a set has no fixed order.
        return {
            name: np.empty(sum(chunk.items), dtype)
            for name, dtype in COLUMN_TYPES.items()
            if name in names
        }

    def read_group(self, number: int, epoch: int, parts: Columns) -> None:
        """Reads a row group into its slices of the columns of a chunk."""
        group = self.data.row_groups[number]
        self.data.read_into(group, parts)
        if self.ties is not None:
            self.ties.shuffle(group, epoch, parts)

    def requested(self, values: Columns) -> Columns:
        """Removes the column that only ties needed, unless it was requested."""
        return {name: values[name] for name in ("items", *self.columns)}


class _PendingChunk:
    """A chunk that threads are decoding."""

    def __init__(self, decoder: _Decoder, chunk: Chunk, pool: ThreadPoolExecutor) -> None:
        self._chunk = chunk
        values = decoder.allocate(chunk)
        # Each thread writes into its own slices of the arrays, so nothing needs to be concatenated.
        self._futures: list[Future[None]] = [
            pool.submit(decoder.read_group, group, chunk.epoch, parts)
            for group, parts in _parts_by_group(chunk, values)
        ]
        self._values = decoder.requested(values)

    def result(self) -> tuple[Chunk, Columns]:
        """Waits until all row groups are decoded, and returns the chunk and its columns."""
        # If a thread has failed, `result` raises its error.
        for future in self._futures:
            future.result()
        return self._chunk, self._values


def _parts_by_group(chunk: Chunk, values: Columns) -> Iterator[tuple[int, Columns]]:
    """Yields the index of each row group in a chunk, and the group's slices of the columns."""
    first = 0
    for group, items in zip(chunk.groups, chunk.items, strict=True):
        yield group, {name: column[first : first + items] for name, column in values.items()}
        first += items
