"""Computes the values of an iterator in advance, in a thread."""

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def ahead(values: Generator[T, None, None], most: int) -> Generator[T, None, None]:
    """Yields the same values, but up to `most` of them are computed before they are requested.

    If `most` is 0, each value is computed when it is requested. If a value raises an error, the
    error is raised when this value is requested. Close the iterator to end the thread, which then
    closes `values`.
    """
    if not most:
        yield from values
        return

    ready: queue.Queue[object] = queue.Queue(most)
    closed = threading.Event()

    def produce() -> None:
        try:
            for value in values:
                ready.put(value)
                if closed.is_set():
                    return
            ready.put(_END)
        except BaseException as error:
            ready.put(_Failed(error))
        finally:
            values.close()

    thread = threading.Thread(target=produce, name="batches", daemon=True)
    thread.start()
    try:
        while (value := ready.get()) is not _END:
            if isinstance(value, _Failed):
                raise value.error
            yield value  # type: ignore[misc]
            # The value must not stay in memory while the loop waits for the next one.
            del value
    finally:
        closed.set()
        # The thread may wait until the full queue has space. So the queue is emptied until the
        # thread ends.
        while thread.is_alive():
            while not ready.empty():
                ready.get()
            thread.join(0.02)


@dataclass(frozen=True)
class _Failed:
    """The last entry of the queue if the values end with an error."""

    error: BaseException


_END = object()  # the last entry of the queue if the values end without an error
