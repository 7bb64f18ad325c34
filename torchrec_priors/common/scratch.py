"""Folders for temporary files.

A folder that a killed process left behind is removed by the next process that needs one, never
while it is in use.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

# A file in the folder, locked as long as the folder's process lives.
_LOCK = "lock"
# Seconds. The lock is the first file that is created: a folder that lacks it for so long was left
# behind.
_UNLOCKED_FOR = 3600.0


@contextmanager
def scratch_folder(parent: Path, kind: str) -> Iterator[Path]:
    """Yields a new folder `.KIND.*` in `parent`, which is removed at the end.

    Those of processes that were killed are removed first.

    Raises:
        OSError: `parent` cannot be written.
    """
    _remove_left(parent, kind)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{kind}."))

    lock = -1
    try:
        lock = os.open(folder / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _hold(lock)
        # Renamed only now, so under its final name the lock is always held.
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)

        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _remove_left(parent: Path, kind: str) -> None:
    """Removes folders that were left behind."""
    for folder in parent.glob(f".{kind}.*"):
        if folder.is_dir() and not folder.is_symlink() and _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Whether no process uses the folder any more."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        try:
            return time.time() - folder.stat().st_mtime > _UNLOCKED_FOR
        except OSError:
            # Another process has removed it.
            return False

    try:
        return _hold(lock)
    finally:
        os.close(lock)


def _hold(lock: int) -> bool:
    """Locks the file; returns whether it is locked by us now."""
    try:
        return lock_descriptor(lock, blocking=False)
    except OSError:
        # The file system has no locks: then nothing is ever removed.
        return False
