"""Lets calls of several threads run at the same time, or one after another, until it is closed."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Turns:
    """The calls that are running. A call holds no lock while it runs."""

    def __init__(self, *, together: bool) -> None:
        """
        Args:
            together: whether calls may run at the same time.
        """
        self._together = together
        self._changed = Condition()
        self._running = 0
        self._closed = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for the call's turn, and runs the block.

        Raises:
            RuntimeError: it was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._together or not self._running)
            if self._closed:
                raise RuntimeError("this run is closed: load it again")
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def close(self) -> bool:
        """Lets no further call begin, and waits for those that are running.

        Returns:
            Whether it was open until now.
        """
        with self._changed:
            was_open = not self._closed
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)
        return was_open
