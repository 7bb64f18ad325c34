"""Creates folders for temporary files.

If a process is killed, its folder stays. The next process that creates a folder in the same place
removes the old one. A lock shows which folders are still in use.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

# A file in the folder, which the process that uses the folder has locked.
_LOCK = "lock"
# The lock is the first file that is created in a folder. If a folder without a lock is older than
# this, in seconds, its process was killed.
_UNLOCKED_FOR = 3600.0


@contextmanager
def scratch_folder(parent: Path, kind: str) -> Iterator[Path]:
    """Yields a new folder `.KIND.*` in `parent`, and removes it at the end.

    First, the folders of killed processes are removed.

    Raises:
        OSError: `parent` cannot be written.
    """
    _remove_left(parent, kind)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{kind}."))

    lock = -1
    try:
        lock = os.open(folder / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _lock_file(lock)
        # The file is renamed only now, so that under its final name it is always locked.
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)

        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _remove_left(parent: Path, kind: str) -> None:
    """Removes the folders that killed processes have left in `parent`."""
    for folder in parent.glob(f".{kind}.*"):
        if folder.is_dir() and not folder.is_symlink() and _is_unused(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_unused(folder: Path) -> bool:
    """Returns whether the folder is no longer in use."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        try:
            return time.time() - folder.stat().st_mtime > _UNLOCKED_FOR
        except OSError:
            # Another process has removed the folder.
            return False

    try:
        return _lock_file(lock)
    finally:
        os.close(lock)


def _lock_file(lock: int) -> bool:
    """Tries to lock a file; returns whether this process has the lock now."""
    try:
        return lock_descriptor(lock, blocking=False)
    except OSError:
        # The file system does not support locks. Folders of killed processes then stay.
        return False
