"""Reports the progress of copying."""

import time
from collections.abc import Callable
from threading import Lock

from fsspec.callbacks import Callback

Report = Callable[[str], None]

_EVERY = 2.0  # seconds between two reports


class Progress:
    """Counts the bytes that threads copy, and reports their number every few seconds.

    Args:
        what: the description of the work, for messages.
        files: the number of files.
        total: the size of all files in bytes.
        report: called with each message.
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
        """Returns a callback that counts the copied bytes of one file."""
        return _Moved(self)

    def add(self, moved: int) -> None:
        """Adds the number of bytes that were copied. Threads may call it at the same time."""
        with self._lock:
            # The bytes of a second try are counted again, so their sum may exceed the total.
            self._moved = min(self._moved + moved, self._total)
            if time.monotonic() - self._reported_at > _EVERY:
                self._reported_at = time.monotonic()
                self._report(f"{self._what}: {amount(self._moved)} of {amount(self._total)}")


def amount(count: int) -> str:
    """Formats a number of bytes for a message.

    >>> amount(1_234_567_890), amount(12_000)
    ('1.23 GB', '0.01 MB')
    """
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB"


class _Moved(Callback):
    """A callback of fsspec that adds the copied bytes of one file to the progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    # fsspec calls this with the size of each copied block.
    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._progress.add(inc)
