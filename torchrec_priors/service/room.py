"""Tells whether another version of the model fits into memory beside the one that answers.

The system ends a process that uses too much memory. So a service looks before it loads a version.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrec_priors.common.machine import total_memory
from torchrec_priors.common.memory import give_back_freed_memory

_SPARE = 0.1  # the part of the memory that stays free for requests and caches
_MARGIN = 1.1  # a version may need more than in proportion to its files
_KIB = 1024


class Room:
    """The memory of this process, and what versions have needed so far."""

    def __init__(self, limit: int | None = None, used: Callable[[], int] | None = None) -> None:
        """
        Args:
            limit: the memory that the process may use, in bytes; None for all of the machine or
                the container.
            used: returns the memory that the process uses; None to ask the system.
        """
        self.limit = total_memory() if limit is None else limit
        self._used = used or _used
        # The most memory that a version has needed for each byte of its files.
        self._ratio: float | None = None

    def free(self) -> int:
        """Returns the memory that the process may still use, in bytes; below 0 if it has more."""
        free = self.limit - self._used()
        available = _field(Path("/proc/meminfo"), "MemAvailable")
        return free if available is None else min(free, available)

    def needed(self, length: int) -> int:
        """Returns the memory that a version needs, in bytes; 0 if none was loaded yet.

        Args:
            length: the length of the version's files.
        """
        return 0 if self._ratio is None else int(self._ratio * length * _MARGIN)

    def has_spare(self) -> bool:
        """Returns whether enough memory is free to keep a version that does not answer."""
        return self.free() >= self.limit * _SPARE

    @contextmanager
    def loading(self, length: int) -> Iterator[None]:
        """Notes how much memory a version needs, which the block loads.

        Args:
            length: the length of the version's files.
        """
        before = self._used()
        yield
        ratio = (self._used() - before) / max(length, 1)
        # Memory that another version has left may be used again, and does not count then.
        self._ratio = max(ratio, self._ratio or 0.0)


def give_back() -> None:
    """Gives memory that is not used any more back to the system."""
    # This stops all threads, but not for long: the service has frozen what it imported, so only
    # what it loaded is looked at.
    gc.collect()
    give_back_freed_memory()


def _used() -> int:
    """Returns the memory of this process, in bytes, without what the system can read again."""
    return _field(Path("/proc/self/status"), "RssAnon") or 0


def _field(file: Path, name: str) -> int | None:
    """Returns an amount of a file of the system, in bytes; None if the file does not have it."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * _KIB
    return None
