"""Turns errors of the operating system into one line with the file, the problem and the remedy.

Libraries report such errors in different ways. Arrow does not name the file, and DuckDB and
safetensors raise their own exceptions. So the number of the error (`errno`) is found first.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrec_priors.errors import OutsideError, UserError

# Remedies for errors that are mistakes of the user: a file or a folder cannot be used.
_MISTAKES = {
    errno.EACCES: "get permission for it, or name another place",
    errno.EPERM: "get permission for it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of this path is a file: name a folder",
    errno.EEXIST: "something of this name exists and cannot be used: name another place",
    errno.ELOOP: "its links form a loop: name another place",
}

_MAKE_ROOM = "make room and run the same command again"

# Remedies for other errors: the machine lacks something, or something has been removed.
_OUTSIDE = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "raise the limit on the size of files and run the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and run the same command again",
    errno.ENFILE: "close other programs and run the same command again",
    errno.ENOMEM: "free some memory and run the same command again",
    errno.EIO: "the disk cannot be read or written: check it",
    errno.ESTALE: "the network folder has changed: run the same command again",
    errno.ENOENT: "it is gone: if it was removed meanwhile, put it back",
}

_REMEDIES = {**_MISTAKES, **_OUTSIDE}

# The words by which an error is recognised if it has no number. The longest come first, because
# some contain others.
_WORDS = sorted(
    [
        # DuckDB limits the size of its temporary files to the free space of the disk.
        ("max_temp_directory_size", errno.ENOSPC),
        *((os.strerror(number).lower(), number) for number in _REMEDIES if number != errno.ENOENT),
    ],
    key=lambda pair: -len(pair[0]),
)
# In exceptions of these libraries, the words above always mean an error of the system.
_LIBRARIES = ("_duckdb", "duckdb", "pyarrow", "safetensors_rust")
# The number as Arrow and Rust write it.
_NUMBERED = re.compile(r"\[errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)

# If one of these errors has caused another exception, this cause is the error that is reported.
_CAUSES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO}


def one_line(error: BaseException, what: str | None = None) -> UserError | OutsideError | None:
    """Returns an error with a message of one line; None if `error` is not the system's.

    Args:
        what: the beginning of the message, such as "--out: cannot write 'x'". By default the
            message begins with the file of the error.
    """
    number = number_of(error)
    if number is None:
        return None
    kind = UserError if number in _MISTAKES else OutsideError
    return kind(_message(error, number, what))


def cannot(what: str, error: BaseException) -> UserError | OutsideError:
    """Returns an error with a message of one line, for an error that is certainly the system's.

    Args:
        what: the beginning of the message.

    >>> cannot("--out: cannot write 'x'", OSError("the network said no"))
    OutsideError("--out: cannot write 'x': the network said no")
    """
    return one_line(error, what) or OutsideError(f"{what}: {' '.join(str(error).split())[:300]}")


def blame_the_system(error: BaseException, what: str) -> None:
    """Raises an error with a message of one line if permissions, limits or the disk are the cause.

    If the content of a file is the cause, this function does nothing.
    """
    # If a file is missing, the caller itself says so.
    if number_of(error) not in (None, errno.ENOENT):
        raise cannot(what, error) from error


def is_in_vain(error: BaseException) -> bool:
    """Returns whether nothing more can be written, because space or permission is missing.

    The files that were written so far are then of no use.
    """
    number = number_of(error)
    return number in _MISTAKES or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Turns the system's errors in this block into one-line errors that begin with `what`."""
    try:
        yield
    except Exception as error:
        explained = one_line(error, what)
        if explained is None:
            raise
        raise explained from error


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Adds the name of `file` to errors of this block that have none, such as those of Arrow."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            error.errno = _number_in(str(error))
        if error.filename is None:
            error.filename = str(file)
        raise


def number_of(error: BaseException) -> int | None:
    """Returns the system's number (`errno`) of an error; None if this module has no remedy."""
    if isinstance(error, UserError | OutsideError):
        return None

    # An error without a number may have been caused by one that has a number. Chains of causes may
    # be circular.
    number = _own_number(error)
    seen = {id(error)}
    cause = error.__cause__ or error.__context__
    while number is None and cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        number = _own_number(cause)
        if number not in _CAUSES:
            number = None
        cause = cause.__cause__ or cause.__context__
    return number


def _own_number(error: BaseException) -> int | None:
    """Returns the number of the error itself, without its causes."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REMEDIES else None

    # Other exceptions may use the same words with another meaning, so only `_CAUSES` count.
    number = _number_in(str(error))
    is_of_system = isinstance(error, OSError) or _is_of_library(error)
    if is_of_system or number in _CAUSES:
        return number
    return None


def _is_of_library(error: BaseException) -> bool:
    """Returns whether the exception comes from a library that reports errors of the system."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _number_in(text: str) -> int | None:
    """Finds the number that a text contains, as digits or as words."""
    for match in _NUMBERED.finditer(text):
        number = int(match[1] or match[2])
        if number in _REMEDIES:
            return number

    # A message may quote a whole file, so only its beginning is searched.
    lower = text[:4000].lower()
    return next((number for words, number in _WORDS if words in lower), None)


def _message(error: BaseException, number: int, what: str | None) -> str:
    """Returns the line: its beginning, the file, the problem and the remedy."""
    file = getattr(error, "filename", None)
    if file is None and _is_of_library(error):
        # The message of the library may quote a path.
        quoted = re.search(r"[\"']([^\"']*/[^\"']*)[\"']", str(error))
        if quoted is not None:
            file = quoted[1]
    path = "" if file is None else _path_text(file)

    # A hidden path is a temporary file of this project. Its name would not help the user.
    is_temporary = what is not None and any(part.startswith(".") for part in Path(path).parts)
    parts = [what or ""]
    if path and not is_temporary and path not in (what or ""):
        parts.append(f"'{path}'")
    parts += [os.strerror(number), _REMEDIES[number]]
    return ": ".join(part for part in parts if part)


def _path_text(path: object) -> str:
    """Returns the text of a path, which may be bytes; a long path is shortened."""
    text = os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else str(path)
    if len(text) <= 200:
        return text
    return f"{text[:100]}...{text[-60:]}"
