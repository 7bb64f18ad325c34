"""The items of chunks of row groups: decoded in threads, one chunk ahead of the one in use."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.order import Chunk, Cuts
from torchrec_priors.data.ties import Ties
from torchrec_priors.prepared.data_set import COLUMN_TYPES, Columns, PreparedData


@dataclass(frozen=True)
class Part:
    """Windows of one chunk, and the columns that their items are in."""

    windows: Cuts
    columns: Columns

    def read(self, chosen: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The columns of the chosen windows, one window after another, as int64."""
        index = ranges(self.windows.start[chosen], self.windows.length[chosen])
        return {name: values[index].astype(np.int64) for name, values in self.columns.items()}

    def detached(self) -> "Part":
        """The same windows with copies of their columns, so the chunk's memory can be freed."""
        windows = self.windows
        # The copies have only the items of these windows, so the windows start at other places.
        index = ranges(windows.start, windows.length)
        start = np.cumsum(windows.length) - windows.length
        moved = Cuts(windows.user, start, windows.length, windows.context)
        return Part(moved, {name: values[index] for name, values in self.columns.items()})


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ... of each range, `length` of them, one range after another.

    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    # Each range's numbers are a running count, shifted by its start and the ranges before it.
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

    With `workers` threads, the next chunk is decoded while one is in use: two are in memory.
    Without threads, each is decoded when it is requested, and one is in memory. Every row group is
    decoded once. Close the iterator to end the threads.

    Args:
        columns: columns to read in addition to `items`.
        ties: gives interactions at one time a new order; None leaves them as they are stored.
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
            # Started before the chunk is handed out, so both proceed at the same time.
            pending = _PendingChunk(decoder, next(chunks), pool)
            yield chunk, values
            # Freed before the wait for the next chunk: at most two are in memory.
            del values
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Decoder:
    """Reads chunks, one row group at a time.

    Ties are shuffled here, because a row group has the whole histories of its users.
    """

    data: PreparedData
    columns: tuple[str, ...]
    ties: Ties | None

    def decode(self, chunk: Chunk) -> Columns:
        """The requested columns of a chunk."""
        values = self.allocate(chunk)
        for group, parts in _parts_by_group(chunk, values):
            self.read_group(group, chunk.epoch, parts)
        return self.requested(values)

    def allocate(self, chunk: Chunk) -> Columns:
        """Empty arrays for a chunk's columns, `timestamps` among them if ties need them."""
        names = {"items", *self.columns}
        if self.ties is not None:
            names.add("timestamps")
        # In the order of COLUMN_TYPES, as a set has none.
        return {
            name: np.empty(sum(chunk.items), dtype)
            for name, dtype in COLUMN_TYPES.items()
            if name in names
        }

    def read_group(self, number: int, epoch: int, parts: Columns) -> None:
        """Fills a row group's part of a chunk's columns."""
        group = self.data.row_groups[number]
        self.data.read_into(group, parts)
        if self.ties is not None:
            self.ties.shuffle(group, epoch, parts)

    def requested(self, values: Columns) -> Columns:
        """Without the columns that only ties needed."""
        return {name: values[name] for name in ("items", *self.columns)}


class _PendingChunk:
    """A chunk that threads are decoding."""

    def __init__(self, decoder: _Decoder, chunk: Chunk, pool: ThreadPoolExecutor) -> None:
        self._chunk = chunk
        values = decoder.allocate(chunk)
        # Each thread fills its own slices of the arrays, so nothing is copied together afterwards.
        self._futures: list[Future[None]] = [
            pool.submit(decoder.read_group, group, chunk.epoch, parts)
            for group, parts in _parts_by_group(chunk, values)
        ]
        self._values = decoder.requested(values)

    def result(self) -> tuple[Chunk, Columns]:
        """The chunk and its columns, when all row groups are decoded."""
        # Raises the error of a thread, if one failed.
        for future in self._futures:
            future.result()
        return self._chunk, self._values


def _parts_by_group(chunk: Chunk, values: Columns) -> Iterator[tuple[int, Columns]]:
    """Yields (number, its part of the columns) for each row group."""
    first = 0
    for group, items in zip(chunk.groups, chunk.items, strict=True):
        yield group, {name: column[first : first + items] for name, column in values.items()}
        first += items
