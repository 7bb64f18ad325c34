"""The items of chunks of row groups in memory: decoded in threads, one chunk ahead of the one in use."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.order import Chunk, Cuts
from torchrec_priors.data.prepared import COLUMN_TYPES, Columns, PreparedData


@dataclass(frozen=True)
class Part:
    """Windows of one chunk, and the columns they lie in."""

    windows: Cuts
    columns: Columns

    def read(self, chosen: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The columns of some of the windows, one window after another, as int64."""
        place = ranges(self.windows.start[chosen], self.windows.length[chosen])
        return {name: values[place].astype(np.int64) for name, values in self.columns.items()}

    def alone(self) -> "Part":
        """The same windows with columns of their own, so that the chunk's can go."""
        place, windows = ranges(self.windows.start, self.windows.length), self.windows
        start = np.cumsum(windows.length) - windows.length
        moved = Cuts(windows.user, start, windows.length, windows.context)
        return Part(moved, {name: values[place] for name, values in self.columns.items()})


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range, `length` of them, one range after another.

    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    first = np.cumsum(length) - length
    return np.repeat(start - first, length) + np.arange(length.sum())


def read_chunks(
    data: PreparedData, chunks: Iterator[Chunk], columns: Sequence[str], workers: int
) -> Generator[tuple[Chunk, Columns], None, None]:
    """Every chunk with its columns, in the types in which they are stored.

    With `workers` threads the next chunk is decoded while one is in use: two are in memory. Without, each is decoded
    when it is asked for, and one is in memory. Every row group is decoded once. Close the iterator to end the threads.
    """
    if not workers:
        for chunk in chunks:
            yield chunk, _read(data, chunk, columns)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="row-groups")
    try:
        coming = _Coming(data, next(chunks), columns, pool)
        while True:
            chunk, values = coming.finished()
            coming = _Coming(data, next(chunks), columns, pool)
            yield chunk, values
            del values
    finally:
        pool.shutdown(cancel_futures=True)


class _Coming:
    """A chunk that threads are decoding."""

    def __init__(self, data: PreparedData, chunk: Chunk, columns: Sequence[str], pool: ThreadPoolExecutor) -> None:
        self._chunk, self._values = chunk, _empty(chunk, columns)
        self._pending: list[Future[None]] = [
            pool.submit(data.read_into, data.row_groups[group], views) for group, views in _views(chunk, self._values)
        ]

    def finished(self) -> tuple[Chunk, Columns]:
        for future in self._pending:
            future.result()
        return self._chunk, self._values


def _read(data: PreparedData, chunk: Chunk, columns: Sequence[str]) -> Columns:
    values = _empty(chunk, columns)
    for group, views in _views(chunk, values):
        data.read_into(data.row_groups[group], views)
    return values


def _empty(chunk: Chunk, columns: Sequence[str]) -> Columns:
    return {name: np.empty(sum(chunk.items), COLUMN_TYPES[name]) for name in ("items", *columns)}


def _views(chunk: Chunk, values: Columns) -> Iterator[tuple[int, Columns]]:
    """(number, its part of the columns) of each row group."""
    first = 0
    for group, items in zip(chunk.groups, chunk.items, strict=True):
        yield group, {name: column[first : first + items] for name, column in values.items()}
        first += items
