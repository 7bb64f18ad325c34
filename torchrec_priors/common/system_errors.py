"""Errors of the operating system as one line: the file, what is wrong with it, the remedy.

Libraries report them in different ways: Arrow without the file, DuckDB and safetensors with their
own exceptions.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrec_priors.errors import OutsideError, UserError

# The user named a file or a folder that cannot be used.
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

_MAKE_ROOM = "make room and give the same command again"

# The machine is out of something, or lost it.
_OUTSIDE = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "raise the limit on the size of files and give the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and give the same command again",
    errno.ENFILE: "close other programs and give the same command again",
    errno.ENOMEM: "free some memory and give the same command again",
    errno.EIO: "the disk cannot be read or written: check it",
    errno.ESTALE: "the network folder has changed: give the same command again",
    errno.ENOENT: "it is gone: if it was removed meanwhile, put it back",
}

_REMEDIES = {**_MISTAKES, **_OUTSIDE}

# What a library's error says if it lacks the system's number. The longest first: some contain
# others.
_WORDS = sorted(
    [
        # DuckDB takes the free space of the disk as its limit.
        ("max_temp_directory_size", errno.ENOSPC),
        *((os.strerror(number).lower(), number) for number in _REMEDIES if number != errno.ENOENT),
    ],
    key=lambda pair: -len(pair[0]),
)
# In errors of these, the words are believed for every number.
_LIBRARIES = ("_duckdb", "duckdb", "pyarrow", "safetensors_rust")
# How Arrow and Rust write the number.
_NUMBERED = re.compile(r"\[errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)

# Any error is about these if one of them caused it.
_CAUSES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO}


def one_line(error: BaseException, what: str | None = None) -> UserError | OutsideError | None:
    """The error that says it in one line; None if a user could do nothing about `error`.

    Args:
        what: what could not be done, as "--out: cannot write 'x'"; by default the error's own file.
    """
    number = number_of(error)
    if number is None:
        return None
    kind = UserError if number in _MISTAKES else OutsideError
    return kind(_message(error, number, what))


def cannot(what: str, error: BaseException) -> UserError | OutsideError:
    """As `one_line`, for an error that is certainly of the system.

    >>> cannot("--out: cannot write 'x'", OSError("the network said no"))
    OutsideError("--out: cannot write 'x': the network said no")
    """
    return one_line(error, what) or OutsideError(f"{what}: {' '.join(str(error).split())[:300]}")


def blame_the_system(error: BaseException, what: str) -> None:
    """Raises the one line if permissions, limits or the disk are to blame, not a file's content."""
    # A missing file is not the system's fault: the caller says what is missing.
    if number_of(error) not in (None, errno.ENOENT):
        raise cannot(what, error) from error


def is_in_vain(error: BaseException) -> bool:
    """Whether nothing more can be written, for lack of room or permission.

    What was written so far is then of no use.
    """
    number = number_of(error)
    return number in _MISTAKES or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Turns errors of the system, from any library, into one line that begins with `what`."""
    try:
        yield
    except Exception as error:
        explained = one_line(error, what)
        if explained is None:
            raise
        raise explained from error


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Adds `file` to errors of the block that name no file, as Arrow's do not."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            error.errno = _number_in(str(error))
        if error.filename is None:
            error.filename = str(file)
        raise


def number_of(error: BaseException) -> int | None:
    """The system's number of what went wrong; None if it has no remedy."""
    if isinstance(error, UserError | OutsideError):
        return None

    # An error that says nothing itself may have been caused by one that does. Chains may be
    # circular.
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
    """The number of an error itself, without its causes."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REMEDIES else None

    # Other exceptions may use the same words about something else.
    number = _number_in(str(error))
    is_believed = isinstance(error, OSError) or _is_of_library(error)
    if is_believed or number in _CAUSES:
        return number
    return None


def _is_of_library(error: BaseException) -> bool:
    """Whether the error is of a library that reports errors of the system."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _number_in(text: str) -> int | None:
    """The number that a text names, by digits or by words."""
    for match in _NUMBERED.finditer(text):
        number = int(match[1] or match[2])
        if number in _REMEDIES:
            return number

    # The beginning is enough, and a message may quote a whole file.
    lower = text[:4000].lower()
    return next((number for words, number in _WORDS if words in lower), None)


def _message(error: BaseException, number: int, what: str | None) -> str:
    """The line: what could not be done, the file, what is wrong, the remedy."""
    file = getattr(error, "filename", None)
    if file is None and _is_of_library(error):
        # The library's own words may quote a path.
        quoted = re.search(r"[\"']([^\"']*/[^\"']*)[\"']", str(error))
        if quoted is not None:
            file = quoted[1]
    path = "" if file is None else _path_text(file)

    # A hidden path is one of our temporary files, which means nothing to the user.
    is_temporary = what is not None and any(part.startswith(".") for part in Path(path).parts)
    parts = [what or ""]
    if path and not is_temporary and path not in (what or ""):
        parts.append(f"'{path}'")
    parts += [os.strerror(number), _REMEDIES[number]]
    return ": ".join(part for part in parts if part)


def _path_text(path: object) -> str:
    """The text of a path, which may be bytes; a very long one is cut."""
    text = os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else str(path)
    if len(text) <= 200:
        return text
    return f"{text[:100]}...{text[-60:]}"
