"""Manages the work folder of a preparation, which is next to the output folder.

If the process is killed, the folder stays, and the same command resumes from it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import remove_leftover, write_whole
from torchrec_priors.common.lock_file import lock_file
from torchrec_priors.common.system_errors import is_in_vain
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.memory import OutOfMemoryError

# The version of the files in a work folder. A folder with another version is emptied.
_LAYOUT = 2
_MADE_FOR = "made_for.json"
_LOCK = "lock"


def place_of(out: Path) -> Path:
    """Returns the work folder of the preparation of `out`."""
    return out.with_name(f".{out.name}.work")


def set_aside(out: Path) -> Path:
    """Returns the folder to which the old data set is moved while a new one replaces it."""
    return out.with_name(f".{out.name}.old")


def recover(out: Path) -> None:
    """Puts the old data set back if a process was killed while replacing it."""
    if out.exists() or not set_aside(out).exists():
        return

    lock = _locked(place_of(out), out)
    try:
        # This is checked again, because another process may have recovered the data set before
        # this process had the lock.
        if not out.exists() and set_aside(out).exists():
            set_aside(out).replace(out)
    finally:
        os.close(lock)


@contextmanager
def work_folder(
    out: Path, made_for: Mapping[str, Any], report: Callable[[str], None]
) -> Iterator[Path]:
    """Provides the work folder and locks it against other processes.

    The folder is emptied first if it was used for something else. It is removed at the end, and
    also after an error that is the user's mistake. It stays if memory ran out and after other
    errors, so that the same command can resume. If the disk is full, the folder is removed to free
    the space.

    Args:
        made_for: all values that decide the content of files in the folder.

    Raises:
        UserError: another process is preparing `out`.
    """
    folder = place_of(out)
    lock = _locked(folder, out)
    remove = False
    try:
        # Converting to JSON and back turns tuples into lists, as in the file.
        header = json.loads(json.dumps({"layout": _LAYOUT, **made_for}))
        if _read(folder / _MADE_FOR) == header:
            report("resuming from an earlier run")
        else:
            for path in folder.iterdir():
                if path.name != _LOCK:
                    remove_leftover(path)
            write_whole(folder / _MADE_FOR, json.dumps(header) + "\n")

        yield folder
        remove = True
    except Exception as error:
        # The files are removed if the same command would fail again, or if they take up the space
        # that is missing.
        of_the_user = isinstance(error, UserError) and not isinstance(error, OutOfMemoryError)
        remove = of_the_user or is_in_vain(error.__cause__ or error)
        raise
    finally:
        if remove:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path, out: Path) -> int:
    """Creates and locks the folder, and returns the file descriptor of the lock."""

    def create() -> None:
        # A symbolic link is removed, because somebody else may have created it to redirect the
        # files.
        if folder.is_symlink():
            folder.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)

    # The folder may be removed, together with the lock, by the process that held it.
    lock = lock_file(folder / _LOCK, wait=False, prepare=create)
    if lock is None:
        raise UserError(f"--out: another process is preparing '{out}': wait until it is done")
    return lock


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
