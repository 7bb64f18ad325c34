"""The folder next to the output in which a preparation works.

A kill leaves it, so the same command resumes.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import remove_leftover, write_whole
from torchrec_priors.common.system_errors import is_in_vain
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.memory import OutOfMemoryError

# Version of the files that stages leave: a folder of another version is not used.
_LAYOUT = 2
_MADE_FOR = "made_for.json"
_LOCK = "lock"


def place_of(out: Path) -> Path:
    """Where the preparation of `out` works."""
    return out.with_name(f".{out.name}.work")


def set_aside(out: Path) -> Path:
    """Where the old data set is for a moment, while another takes its place."""
    return out.with_name(f".{out.name}.old")


def recover(out: Path) -> None:
    """Puts the old data set back if a kill left none in its place."""
    if out.exists() or not set_aside(out).exists():
        return

    lock = _locked(place_of(out), out)
    try:
        # Looked at again: another process may have recovered it before this one had the lock.
        if not out.exists() and set_aside(out).exists():
            set_aside(out).replace(out)
    finally:
        os.close(lock)


@contextmanager
def work_folder(
    out: Path, made_for: Mapping[str, Any], report: Callable[[str], None]
) -> Iterator[Path]:
    """The folder, locked against other processes, and emptied if it was used for anything else.

    It is removed afterwards. It stays if memory ran out, and after errors that are not the
    user's, so the same command finds it; but a full disk gets its space back.

    Args:
        made_for: everything that decides what stages leave in the folder.

    Raises:
        UserError: another process prepares `out`.
    """
    folder = place_of(out)
    lock = _locked(folder, out)
    remove = False
    try:
        # Through JSON and back, so that tuples compare equal to the lists that the file has.
        header = json.loads(json.dumps({"layout": _LAYOUT, **made_for}))
        if _read(folder / _MADE_FOR) == header:
            report("resuming from what an earlier run left")
        else:
            for path in folder.iterdir():
                if path.name != _LOCK:
                    remove_leftover(path)
            write_whole(folder / _MADE_FOR, json.dumps(header) + "\n")

        yield folder
        remove = True
    except Exception as error:
        # The same command would fail again, or the files take up the space that is missing.
        of_the_user = isinstance(error, UserError) and not isinstance(error, OutOfMemoryError)
        remove = of_the_user or is_in_vain(error.__cause__ or error)
        raise
    finally:
        if remove:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path, out: Path) -> int:
    """Locks the folder; the lock ends with the process, or when the descriptor is closed."""
    while True:
        # Never work in the folder that a link points to: someone may have planted it.
        if folder.is_symlink():
            folder.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UserError(
                f"--out: another process is preparing '{out}': wait until it is done"
            ) from error

        # Another process may have removed the folder between the two calls: then the lock is of a
        # file that no one else will find, and a new one is needed.
        try:
            if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
