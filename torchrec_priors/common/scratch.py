"""Folders for temporary files that a kill leaves behind are removed by the next who needs one, never while in use."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "lock"  # in the folder, held as long as its process lives
_UNLOCKED_FOR = 3600.0  # seconds after which a folder without one is nobody's: it is the first thing that is made


@contextmanager
def scratch_folder(parent: Path, kind: str) -> Iterator[Path]:
    """A new folder `.KIND.*` in `parent`, which is gone at the end. Those of processes that were killed go first.

    Raises:
        OSError: `parent` cannot be written.
    """
    _remove_left(parent, kind)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{kind}."))
    lock = -1
    try:
        lock = os.open(folder / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _hold(lock)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # there only when held
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _remove_left(parent: Path, kind: str) -> None:
    for folder in parent.glob(f".{kind}.*"):
        if folder.is_dir() and not folder.is_symlink() and _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Whether no process uses it any more."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        try:
            return time.time() - folder.stat().st_mtime > _UNLOCKED_FOR
        except OSError:
            return False  # gone meanwhile
    try:
        return _hold(lock)
    finally:
        os.close(lock)


def _hold(lock: int) -> bool:
    """Whether it is ours now; not so on file systems without locks, where nothing is removed then."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
