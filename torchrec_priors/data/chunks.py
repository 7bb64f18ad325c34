"""The items of chunks of row groups in memory: decoded in threads, one chunk ahead of the one in use."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.order import Chunk, Cuts
from torchrec_priors.data.ties import Ties
from torchrec_priors.prepared.data_set import COLUMN_TYPES, Columns, PreparedData


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
        place = ranges(self.windows.start, self.windows.length)
        windows = self.windows
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
    data: PreparedData,
    chunks: Iterator[Chunk],
    columns: Sequence[str],
    workers: int,
    ties: Ties | None = None,
) -> Generator[tuple[Chunk, Columns], None, None]:
    """Every chunk with its columns, in the types in which they are stored.

    With `workers` threads the next chunk is decoded while one is in use: two are in memory. Without, each is decoded
    when it is asked for, and one is in memory. Every row group is decoded once. Close the iterator to end the threads.

    Args:
        columns: besides `items`.
        ties: gives interactions at one time a new order; None leaves them as they are stored.
    """
    decode = _Decode(data, tuple(columns), ties)
    if not workers:
        for chunk in chunks:
            yield chunk, decode.whole(chunk)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="row-groups")
    try:
        coming = _Coming(decode, next(chunks), pool)
        while True:
            chunk, values = coming.finished()
            coming = _Coming(decode, next(chunks), pool)
            yield chunk, values
            del values
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Decode:
    """What is read of every row group, and what is done to it there, since it has its users whole."""

    data: PreparedData
    columns: tuple[str, ...]
    ties: Ties | None

    def empty(self, chunk: Chunk) -> Columns:
        read = {"items", *self.columns, *(() if self.ties is None else ("timestamps",))}
        return {
            name: np.empty(sum(chunk.items), COLUMN_TYPES[name])
            for name in COLUMN_TYPES
            if name in read
        }

    def group(self, number: int, epoch: int, places: Columns) -> None:
        """Fills a row group's part of a chunk's columns."""
        group = self.data.row_groups[number]
        self.data.read_into(group, places)
        if self.ties is not None:
            self.ties.shuffle(group, epoch, places)

    def asked(self, values: Columns) -> Columns:
        return {name: values[name] for name in ("items", *self.columns)}

    def whole(self, chunk: Chunk) -> Columns:
        values = self.empty(chunk)
        for group, places in _places(chunk, values):
            self.group(group, chunk.epoch, places)
        return self.asked(values)


class _Coming:
    """A chunk that threads are decoding."""

    def __init__(self, decode: _Decode, chunk: Chunk, pool: ThreadPoolExecutor) -> None:
        self._chunk = chunk
        values = decode.empty(chunk)
        self._pending: list[Future[None]] = [
            pool.submit(decode.group, group, chunk.epoch, places)
            for group, places in _places(chunk, values)
        ]
        self._values = decode.asked(values)

    def finished(self) -> tuple[Chunk, Columns]:
        for future in self._pending:
            future.result()
        return self._chunk, self._values


def _places(chunk: Chunk, values: Columns) -> Iterator[tuple[int, Columns]]:
    """(number, its part of the columns) of each row group."""
    first = 0
    for group, items in zip(chunk.groups, chunk.items, strict=True):
        yield group, {name: column[first : first + items] for name, column in values.items()}
        first += items
