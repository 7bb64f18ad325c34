"""The folder beside the output where a preparation works, kept by a kill so that the same command goes on."""

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

_LAYOUT = 2  # of what stages leave in the folder
_MADE_FOR = "made_for.json"
_LOCK = "lock"


def place_of(out: Path) -> Path:
    """Where the preparation of `out` works."""
    return out.with_name(f".{out.name}.work")


def set_aside(out: Path) -> Path:
    """Where the old data set is for a moment, when another takes its place."""
    return out.with_name(f".{out.name}.old")


def recover(out: Path) -> None:
    """Puts the old data set back where a kill left none in its place."""
    if out.exists() or not set_aside(out).exists():
        return
    lock = _locked(place_of(out), out)
    try:
        if not out.exists() and set_aside(out).exists():
            set_aside(out).replace(out)
    finally:
        os.close(lock)


@contextmanager
def work_folder(
    out: Path, made_for: Mapping[str, Any], report: Callable[[str], None]
) -> Iterator[Path]:
    """The folder, emptied where it was made for anything else; nobody else works there meanwhile.

    It is gone afterwards, but for lack of memory and errors that are not the user's: then the same command finds it.
    A disk that is full gets its room back.

    Args:
        made_for: whatever decides what stages leave there.

    Raises:
        UserError: another process prepares `out`.
    """
    folder = place_of(out)
    lock = _locked(folder, out)
    gone = False
    try:
        header = json.loads(json.dumps({"layout": _LAYOUT, **made_for}))
        if _read(folder / _MADE_FOR) == header:
            report("going on with what an earlier run left")
        else:
            for path in folder.iterdir():
                if path.name != _LOCK:
                    remove_leftover(path)
            write_whole(folder / _MADE_FOR, json.dumps(header) + "\n")
        yield folder
        gone = True
    except Exception as error:
        of_the_user = isinstance(error, UserError) and not isinstance(error, OutOfMemoryError)
        gone = of_the_user or is_in_vain(error.__cause__ or error)
        raise
    finally:
        if gone:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path, out: Path) -> int:
    """A lock on the folder, which ends with the process."""
    while True:
        if folder.is_symlink():  # what it names is nobody's to work in
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
        try:
            if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)  # the folder was removed between the two calls


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
