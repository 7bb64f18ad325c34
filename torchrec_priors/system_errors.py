"""What the operating system refuses, as one line with the remedy: the file, what is wrong with it, what to do."""

import errno
import os

from torchrec_priors.errors import OutsideError, UserError

# The user named a file or a folder that cannot be what they want.
_MISTAKES = {
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of this path is a file: name a folder",
    errno.ELOOP: "its links lead to one another: name another place",
}

# The machine is out of something, or lost it.
_OUTSIDE = {
    errno.ENOSPC: "make room and give the same command again",
    errno.EDQUOT: "make room and give the same command again",
    errno.EFBIG: "raise the limit on the size of files and give the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and give the same command again",
    errno.ENFILE: "close other programs and give the same command again",
    errno.ENOMEM: "free some memory and give the same command again",
    errno.EIO: "the disk cannot be read or written: check it",
    errno.ESTALE: "the network folder has changed: give the same command again",
    errno.ENOENT: "it is gone: if it was removed meanwhile, put it back",
}


def one_line(error: OSError) -> UserError | OutsideError | None:
    """The error that says it in one line; None where `error` is nothing that a person could mend."""
    number = error.errno
    if number in _MISTAKES:
        return UserError(_message(error, _MISTAKES[number]))
    if number in _OUTSIDE:
        return OutsideError(_message(error, _OUTSIDE[number]))
    return None


def _message(error: OSError, remedy: str) -> str:
    assert error.errno is not None
    reason = os.strerror(error.errno)
    where = f"'{_text(error.filename)}': " if error.filename is not None else ""
    return f"{where}{reason}: {remedy}"


def _text(name: object) -> str:
    """Of a file's name, which may be bytes; a very long one is cut."""
    text = os.fsdecode(name) if isinstance(name, bytes | str | os.PathLike) else str(name)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
