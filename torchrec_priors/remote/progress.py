"""How far copying has come, for people."""

import time
from collections.abc import Callable
from threading import Lock

from fsspec.callbacks import Callback

Report = Callable[[str], None]

_EVERY = 2.0  # seconds


class Progress:
    """Counts the bytes of several files that threads copy, and says so now and then."""

    def __init__(self, what: str, files: int, total: int, report: Report) -> None:
        self._what = f"{what} ({files:,} file{'s' if files != 1 else ''})"
        self._total = total
        self._report = report
        self._moved = 0
        self._lock = Lock()
        self._said = time.monotonic()
        if files:
            report(f"{self._what}: {amount(total)}")

    def file(self) -> Callback:
        """For the copy of one file."""
        return _Moved(self)

    def add(self, moved: int) -> None:
        with self._lock:
            self._moved = min(
                self._moved + moved, self._total
            )  # a copy that is made again counts again
            if time.monotonic() - self._said > _EVERY:
                self._said = time.monotonic()
                self._report(f"{self._what}: {amount(self._moved)} of {amount(self._total)}")


class _Moved(Callback):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._progress.add(inc)


def amount(count: int) -> str:
    """
    >>> amount(1_234_567_890), amount(12_000)
    ('1.23 GB', '0.01 MB')
    """
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
