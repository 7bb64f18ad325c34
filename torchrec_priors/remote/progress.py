"""Reports the progress of copying."""

import time
from collections.abc import Callable
from threading import Lock

from fsspec.callbacks import Callback

Report = Callable[[str], None]

# Seconds between two reports.
_EVERY = 2.0


class Progress:
    """Counts the bytes of several files that threads copy, and reports them every few seconds.

    Args:
        what: what is done, for messages.
        files: number of files.
        total: number of bytes of all of them.
        report: takes each message.
    """

    def __init__(self, what: str, files: int, total: int, report: Report) -> None:
        plural = "" if files == 1 else "s"
        self._what = f"{what} ({files:,} file{plural})"
        self._total = total
        self._report = report
        self._moved = 0
        self._lock = Lock()
        self._reported_at = time.monotonic()
        if files:
            report(f"{self._what}: {amount(total)}")

    def file(self) -> Callback:
        """A callback for the copy of one file."""
        return _Moved(self)

    def add(self, moved: int) -> None:
        """Counts bytes that were copied. Threads may call it at the same time."""
        with self._lock:
            # A file that is copied again counts again, so the sum may exceed the total.
            self._moved = min(self._moved + moved, self._total)
            if time.monotonic() - self._reported_at > _EVERY:
                self._reported_at = time.monotonic()
                self._report(f"{self._what}: {amount(self._moved)} of {amount(self._total)}")


def amount(count: int) -> str:
    """A number of bytes in a message.

    >>> amount(1_234_567_890), amount(12_000)
    ('1.23 GB', '0.01 MB')
    """
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB"


class _Moved(Callback):
    """Adds the bytes of one file to the progress of all."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    # fsspec calls it with the size of each block.
    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._progress.add(inc)
