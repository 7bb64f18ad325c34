"""An iterator that is run ahead in a thread, so that whoever takes its values need not wait for them."""

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Failed:
    error: BaseException


_END = object()


def ahead(values: Generator[T, None, None], most: int) -> Generator[T, None, None]:
    """The same values, up to `most` of them waiting before they are asked for; with 0 each is made when it is.

    An error is raised where its value would be. Close the iterator to end the thread, which closes `values`.
    """
    if not most:
        yield from values
        return
    ready: queue.Queue[object] = queue.Queue(most)
    closed = threading.Event()

    def make() -> None:
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

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while (value := ready.get()) is not _END:
            if isinstance(value, _Failed):
                raise value.error
            yield value  # type: ignore[misc]
            del value
    finally:
        closed.set()
        while thread.is_alive():
            while not ready.empty():
                ready.get()
            thread.join(0.02)
