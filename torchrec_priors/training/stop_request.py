"""Signals that ask a run to end: SIGTERM of a scheduler that needs the machine, Ctrl-C. A step's end heeds them."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """The signals that this process has got while it listened."""

    def __init__(self) -> None:
        self._got: set[int] = set()

    def flags(self) -> list[bool]:
        """For each of `SIGNALS`, whether this rank has got it."""
        return [number in self._got for number in SIGNALS]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the signals in this block instead of ending the process.

        A second Ctrl-C ends it at once; but not under a launcher, which passes on the one that the terminal sent, too.
        """
        if (
            threading.current_thread() is not threading.main_thread()
        ):  # Python lets no other handle signals
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._got and "RANK" not in os.environ:
            raise KeyboardInterrupt
        self._got.add(number)


def asked_for(counts: list[float]) -> signal.Signals | None:
    """The signal that ranks got, by how many got each of `SIGNALS`; None where nobody got any."""
    return next((number for number, count in zip(SIGNALS, counts, strict=True) if count), None)
