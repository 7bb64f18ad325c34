"""Locks a file that is removed after use, so that nothing is left of it."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import lock_descriptor


def lock_file(
    file: Path, *, wait: bool = True, prepare: Callable[[], None] = lambda: None
) -> int | None:
    """Creates a file and locks it, until the descriptor is closed or the process ends.

    The holder of the lock may remove the file before the lock ends. A process that has opened the
    removed file then locks a new one.

    Args:
        file: the file that is locked; not a symbolic link.
        wait: whether to wait while another thread or process holds the lock.
        prepare: called before each attempt to open the file. It may create the file's folder.

    Returns:
        The file descriptor of the lock; None if the lock is held elsewhere and `wait` is not set.
    """
    while True:
        prepare()
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if not lock_descriptor(lock, blocking=wait):
            os.close(lock)
            return None

        # Another process may have removed the file between opening and locking it. The locked file
        # is then no longer at this path, so other processes would not find it.
        try:
            if os.path.samestat(os.fstat(lock), os.stat(file)):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)
