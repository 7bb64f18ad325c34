"""Runs an iterator ahead in a thread, so its consumer need not wait for the values."""

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def ahead(values: Generator[T, None, None], most: int) -> Generator[T, None, None]:
    """Yields the same values, with up to `most` of them computed before they are requested.

    With 0, each is computed when it is requested. An error is raised at the place of its value.
    Close the iterator to end the thread, which closes `values`.
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
            # A batch must not stay in memory while the next one is awaited.
            del value
    finally:
        closed.set()
        # The thread may be waiting to put a value into a full queue: empty it until the thread
        # ends.
        while thread.is_alive():
            while not ready.empty():
                ready.get()
            thread.join(0.02)


@dataclass(frozen=True)
class _Failed:
    """What the thread leaves in the queue if it ends by an error."""

    error: BaseException


_END = object()  # what it leaves there if the values have ended
