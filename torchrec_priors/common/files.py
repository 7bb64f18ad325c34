"""The only way to our own files: written completely or not at all, read only as they were written.

A file is created next to its final path, as `.NAME.partial`, and moved there at the end. A partial
file is always created again and exclusively: what a kill left is removed, and a link that somebody
planted under its name is removed, never followed. Our JSON files have a checksum of their content,
so a damaged one is reported instead of trusted.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from torchrec_priors.common.system_errors import naming
from torchrec_priors.errors import UserError

# The key of the checksum in our JSON files.
CHECKSUM = "sha256"

_DRIVE = re.compile(r"[A-Za-z]:")
# Bytes. File systems take 255, and we add to names.
_LONGEST_NAME = 200
# Characters of a name that a message shows.
_SHOWN = 60


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Yields the path of an empty file next to `file`, which replaces `file` at the end.

    It is removed if there is an error. One process at a time may write a file.

    Raises:
        UserError: `file` exists and is not a regular file.
        OSError: the folder is missing, full or not writable.
    """
    check_replaceable(file)

    # O_EXCL and O_NOFOLLOW: a link that appears here meanwhile is an error and is not written to.
    partial = partial_of(file)
    partial.unlink(missing_ok=True)
    os.close(
        os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    )

    try:
        with naming(file):
            yield partial
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_of(file: Path) -> Path:
    """The path of `file` while it is being written."""
    return file.with_name(f".{file.name}.partial")


def remove_leftover(path: Path) -> None:
    """Removes a file, or a folder with everything in it, if it exists; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_replaceable(file: Path) -> None:
    """Raises UserError if `file` exists and is not a regular file but a folder, a device or a pipe.

    A link counts as what it points to.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise UserError(f"'{file}' is a folder: name a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"'{file}' is not a regular file, so it is not replaced: name another file")


def append_to(file: Path) -> TextIO:
    """Opens a text file to append to. It is created if it does not exist; a link is not followed.

    Raises:
        OSError: it is a link, or cannot be written.
    """
    return open(file, "a", encoding="utf8", opener=_open_no_link)


def check_no_link(folder: Path, root: Path) -> None:
    """Raises UserError if `folder`, or one between it and `root`, is a link.

    What is written there would leave `root`, which may have come from somebody else.
    """
    for path in (folder, *folder.parents):
        if path == root:
            return
        if path.is_symlink():
            raise UserError(
                f"'{path}' is a link, through which nothing is written: "
                f"make it a folder, or link '{root}' as a whole"
            )


def write_whole(file: Path, text: str) -> None:
    """Replaces `file` by `text` in one move, so neither a reader nor a kill leaves a part of it."""
    with new_file(file) as partial, partial.open("w", encoding="utf8") as stream:
        stream.write(text)
        stream.flush()
        # On the disk before the move, so that a power failure cannot leave an empty file.
        os.fsync(stream.fileno())


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Writes an object as JSON with a checksum of its content; folders above it are created.

    Args:
        values: the object; no key is "sha256".
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json_text(values))


def json_text(values: Mapping[str, Any]) -> str:
    """The text that `write_json` writes."""
    assert CHECKSUM not in values
    # As a reader will see it: keys are texts, tuples are lists.
    content = json.loads(json.dumps(values))
    signed = {**content, CHECKSUM: _checksum(content)}
    return json.dumps(signed, indent=1, ensure_ascii=False) + "\n"


def read_json(file: Path, *, remedy: str) -> dict[str, Any]:
    """Reads what `write_json` wrote, without its checksum.

    A file of an earlier version, which has none, is read as it is.

    Args:
        remedy: what a user can do about a damaged file; it ends the message.

    Raises:
        UserError: the file is missing, cannot be read, is not a JSON object, or is not what was
            written.
    """
    values = parse_json(_content(file, remedy), str(file), remedy=remedy)
    take_checksum(values, str(file), remedy=remedy)
    return values


def take_checksum(values: dict[str, Any], name: str, *, remedy: str) -> bool:
    """Removes the checksum from the result of `parse_json`, and compares it.

    Returns:
        Whether there was one.

    Raises:
        UserError: the values are not what was written.
    """
    recorded = values.pop(CHECKSUM, None)
    if recorded is not None and recorded != _checksum(values):
        raise UserError(f"'{name}' is damaged (it does not match its checksum): {remedy}")
    return recorded is not None


def parse_json(content: bytes, name: str, *, remedy: str) -> dict[str, Any]:
    """Parses the JSON object in `content`.

    Args:
        name: name of the file that has it, for messages.

    Raises:
        UserError: it is not a JSON object.
    """
    try:
        values = json.loads(content.decode("utf8"))
    except RecursionError as error:
        raise UserError(f"'{name}' is nested too deeply: {remedy}") from error
    except ValueError as error:
        # Not JSON, not UTF-8, or a number of too many digits.
        reason = " ".join(str(error).split())
        raise UserError(f"'{name}' cannot be read ({reason}): {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{name}' cannot be read (it is not a JSON object): {remedy}")
    return values


def check_name(name: str, what: str) -> str:
    """Returns `name` if a file can have it. It comes from a user, a data set or a store.

    Args:
        what: what has the name, for messages: "--name", "prior".

    Raises:
        UserError: it could lead out of the folder, be hidden, or not be valid on every file system.
    """
    problem = None
    if not name or name != name.strip():
        problem = "is empty, or has spaces at its ends"
    elif name.startswith("."):
        problem = "begins with a dot"
    elif any(mark in name for mark in "/\\:") or not name.isprintable():
        problem = "has a separator or a control character"
    elif len(name.encode("utf8", "surrogatepass")) > _LONGEST_NAME:
        problem = f"is longer than {_LONGEST_NAME} bytes"

    if problem:
        raise UserError(f"{what}: {_shortened(name)!r} {problem}: choose another name")
    return name


def check_file(file: Path, option: str) -> None:
    """Checks that a file of the user's can be read several times and has an end.

    Raises:
        UserError: it does not exist, or is a folder, a pipe or a device.
    """
    if file.is_file():
        return
    if not file.exists() or file.is_dir():
        raise UserError(f"{option}: there is no file '{file}'")
    raise UserError(
        f"{option}: '{file}' is a pipe or a device: write what it holds to a file, and name that"
    )


def check_path(path: str, what: str) -> str:
    """Returns `path` if a file in a folder can have it. It comes from a data set or a store.

    Args:
        path: relative path with slashes.
        what: what has the path, for messages.

    Raises:
        UserError: it could lead out of the folder, or no file can have that name.
    """
    # Backslashes and drives are rejected, too: on other systems they lead out of the folder.
    parts = path.split("/")
    problem = None
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or _DRIVE.match(path):
        problem = "leads out of the folder, or to no file"
    elif any(unicodedata.category(mark) in ("Cc", "Cs") for mark in path):
        problem = "has a control character"
    elif max(len(part.encode()) for part in parts) > _LONGEST_NAME:
        problem = f"has a part longer than {_LONGEST_NAME} bytes"

    if problem:
        raise UserError(f"{what} {_shortened(path)!r} {problem}: rename it there")
    return path


def _shortened(name: str) -> str:
    """The beginning of a name that is too long for a message."""
    if len(name) <= _SHOWN:
        return name
    return f"{name[:_SHOWN]}..."


def _open_no_link(path: str, flags: int) -> int:
    """An opener for `open` that fails for a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _content(file: Path, remedy: str) -> bytes:
    """The content of a file; raises UserError if it is missing or a folder."""
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: {remedy}") from error
    except IsADirectoryError as error:
        raise UserError(f"'{file}' is a folder, not a file: {remedy}") from error


def _checksum(values: Mapping[str, Any]) -> str:
    """The checksum of the content, whatever its layout in a file."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
