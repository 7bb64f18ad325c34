"""What the operating system refuses, as one line with the remedy: the file, what is wrong with it, what to do.

Libraries say it in their own ways: Arrow without the file, DuckDB and safetensors in errors of their own.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrec_priors.errors import OutsideError, UserError

# The user named a file or a folder that cannot be what they want.
_MISTAKES = {
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of this path is a file: name a folder",
    errno.EEXIST: "there is something of this name that cannot be used: name another place",
    errno.ELOOP: "its links lead to one another: name another place",
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

# What a library's error says, where it has no number of the system's. The longest first: some hold others.
_WORDS = sorted(
    [
        (
            "max_temp_directory_size",
            errno.ENOSPC,
        ),  # DuckDB, which takes what the disk has left for its limit
        *((os.strerror(number).lower(), number) for number in _REMEDIES if number != errno.ENOENT),
    ],
    key=lambda pair: -len(pair[0]),
)
_LIBRARIES = (
    "_duckdb",
    "duckdb",
    "pyarrow",
    "safetensors_rust",
)  # whose errors are believed whatever they say
_NUMBERED = re.compile(r"\[errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)  # Arrow; Rust

# Whatever an error is of, it is about these where they are behind it.
_BEHIND = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO}


def one_line(error: BaseException, what: str | None = None) -> UserError | OutsideError | None:
    """The error that says it in one line; None where `error` is nothing that a person could mend.

    Args:
        what: could not be done, as "--out: cannot write 'x'"; the error's own file, where left out.
    """
    number = number_of(error)
    if number is None:
        return None
    kind = UserError if number in _MISTAKES else OutsideError
    return kind(_message(error, number, what))


def cannot(what: str, error: BaseException) -> UserError | OutsideError:
    """As `one_line`, of an error that is of the system for sure.

    >>> cannot("--out: cannot write 'x'", OSError("the network said no"))
    OutsideError("--out: cannot write 'x': the network said no")
    """
    return one_line(error, what) or OutsideError(f"{what}: {' '.join(str(error).split())[:300]}")


def blame_the_system(error: BaseException, what: str) -> None:
    """Raises the one line where the rights, the limits or the disk are to blame, and not what a file holds."""
    if number_of(error) not in (None, errno.ENOENT):
        raise cannot(what, error) from error


def is_in_vain(error: BaseException) -> bool:
    """Whether there is no room, or no right to write: what was made so far is of no use, and in the way."""
    number = number_of(error)
    return number in _MISTAKES or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Errors of the system in the block, whatever library tells them, say in one line that `what` could not be done."""
    try:
        yield
    except Exception as error:
        explained = one_line(error, what)
        if explained is None:
            raise
        raise explained from error


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Errors of the block that name no file, as Arrow's, are of `file`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            error.errno = _number_in(str(error))
        if error.filename is None:
            error.filename = str(file)
        raise


def number_of(error: BaseException) -> int | None:
    """The system's number of what went wrong, of those that have a remedy."""
    if isinstance(error, UserError | OutsideError):
        return None
    number = _own_number(error)
    seen = {id(error)}
    behind = error.__cause__ or error.__context__
    while number is None and behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        found = _own_number(behind)
        number = found if found in _BEHIND else None
        behind = behind.__cause__ or behind.__context__
    return number


def _own_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REMEDIES else None
    number = _number_in(str(error))
    believed = isinstance(error, OSError) or _is_of_a_library(error)
    return number if believed or number in _BEHIND else None


def _is_of_a_library(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _number_in(text: str) -> int | None:
    for found in _NUMBERED.finditer(text):
        number = int(found[1] or found[2])
        if number in _REMEDIES:
            return number
    lower = text[:4000].lower()
    return next((number for words, number in _WORDS if words in lower), None)


def _message(error: BaseException, number: int, what: str | None) -> str:
    file = getattr(error, "filename", None)
    if file is None and _is_of_a_library(error):
        quoted = re.search(
            r"[\"']([^\"']*/[^\"']*)[\"']", str(error)
        )  # its own words about the file
        file = quoted[1] if quoted else None
    where = "" if file is None else _text(file)
    ours = what is not None and any(
        part.startswith(".") for part in Path(where).parts
    )  # a place for a while
    named = f"'{where}'" if where and not ours and where not in (what or "") else None
    return ": ".join(part for part in (what, named, os.strerror(number), _REMEDIES[number]) if part)


def _text(name: object) -> str:
    """Of a file's name, which may be bytes; a very long one is cut."""
    text = os.fsdecode(name) if isinstance(name, bytes | str | os.PathLike) else str(name)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
