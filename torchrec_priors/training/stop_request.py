"""Receives the signals that ask a run to stop, which it does at the end of a step.

A scheduler that needs the machine sends SIGTERM; Ctrl-C in a terminal sends SIGINT.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """The signals that this process has received within `listening` blocks."""

    def __init__(self) -> None:
        self._received: set[int] = set()

    def flags(self) -> list[bool]:
        """Returns for each of `SIGNALS` whether this rank has received it."""
        return [number in self._received for number in SIGNALS]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this block, signals are noted and do not end the process.

        A second Ctrl-C ends the process immediately. Under a launcher it does not, because there
        each Ctrl-C arrives twice, once from the terminal and once from the launcher.
        """
        # Python lets only the main thread handle signals.
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        # After the block, a signal again ends the process immediately.
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # A launcher sets RANK for its processes.
        has_launcher = "RANK" in os.environ
        if number == signal.SIGINT and number in self._received and not has_launcher:
            raise KeyboardInterrupt
        self._received.add(number)


def asked_for(counts: list[float]) -> signal.Signals | None:
    """Returns the signal that ranks have received; None if no rank has received any.

    Args:
        counts: for each of `SIGNALS`, the number of ranks that have received it.
    """
    for number, count in zip(SIGNALS, counts, strict=True):
        if count:
            return number
    return None
