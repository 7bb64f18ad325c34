"""Writes this project's files completely or not at all, and notices damaged files when reading.

A file is written next to its final path, as `.NAME.partial`, and renamed at the end. If a partial
file of a killed process exists, it is removed first. If somebody has put a link under its name, the
link is removed, too, and nothing is written through it. JSON files contain a checksum of their
content, so that damage is noticed.
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

# The key of the checksum in JSON files.
CHECKSUM = "sha256"

_DRIVE = re.compile(r"[A-Za-z]:")
# The longest name, in bytes. File systems allow 255, and `.NAME.partial` adds some.
_LONGEST_NAME = 200
# The number of characters of a name that a message shows.
_SHOWN = 60


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Yields the path of an empty file to write, which replaces `file` at the end of the block.

    If the block raises an error, the new file is removed. Only one process at a time may write the
    same file.

    Raises:
        UserError: `file` exists and is not a regular file.
        OSError: the folder is missing, full or not writable.
    """
    check_replaceable(file)

    # If a link appears here at this moment, O_EXCL and O_NOFOLLOW make it an error, and nothing is
    # written through it.
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
    """Returns the path that `file` has while it is being written."""
    return file.with_name(f".{file.name}.partial")


def remove_leftover(path: Path) -> None:
    """Removes a file, a link, or a folder with everything in it, if it exists.

    The target of a link is not removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_replaceable(file: Path) -> None:
    """Raises UserError if `file` exists and is not a regular file but a folder, a device or a pipe.

    For a link, its target is checked.
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
    """Opens a text file to append to it. If the file does not exist, it is created.

    Raises:
        OSError: the file is a link, or cannot be written.
    """
    return open(file, "a", encoding="utf8", opener=_open_no_link)


def check_no_link(folder: Path, root: Path) -> None:
    """Raises UserError if `folder`, or a folder between it and `root`, is a link.

    Files in it would then be written outside of `root`. If `root` came from somebody else, they may
    have created the link on purpose.
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
    """Replaces the content of `file` by `text` in one step.

    A reader never sees a part of the text, even if the process is killed while it writes.
    """
    with new_file(file) as partial, partial.open("w", encoding="utf8") as stream:
        stream.write(text)
        stream.flush()
        # The text must be on the disk before the file is renamed. Otherwise a power failure could
        # leave an empty file.
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Writes the names in a folder to the disk; fsync of the files does not do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Writes an object as JSON with a checksum of its content; creates the folder if necessary.

    Args:
        file: the file to write.
        values: the object. It must not have the key "sha256".
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json_text(values))


def json_text(values: Mapping[str, Any]) -> str:
    """Returns the text that `write_json` writes."""
    assert CHECKSUM not in values
    # The checksum is computed from the values as a reader will see them: keys are strings, and
    # tuples have become lists.
    content = json.loads(json.dumps(values))
    signed = {**content, CHECKSUM: _checksum(content)}
    return json.dumps(signed, indent=1, ensure_ascii=False) + "\n"


def read_json(file: Path, *, remedy: str) -> dict[str, Any]:
    """Reads the object that `write_json` has written, and checks its checksum.

    A file that an earlier version wrote has no checksum and is read without a check.

    Args:
        file: the file to read.
        remedy: what the user can do if the file is damaged, for the end of the message.

    Raises:
        UserError: the file is missing, cannot be read, is not a JSON object, or does not match its
            checksum.
    """
    values = parse_json(_content(file, remedy), str(file), remedy=remedy)
    take_checksum(values, str(file), remedy=remedy)
    return values


def take_checksum(values: dict[str, Any], name: str, *, remedy: str) -> bool:
    """Removes the checksum from the result of `parse_json`, and checks it.

    Args:
        values: the result of `parse_json`.
        name: the name of the file, for messages.
        remedy: what the user can do, for the end of the message.

    Returns:
        Whether the values had a checksum.

    Raises:
        UserError: the values do not match the checksum.
    """
    recorded = values.pop(CHECKSUM, None)
    if recorded is not None and recorded != _checksum(values):
        raise UserError(f"'{name}' is damaged (it does not match its checksum): {remedy}")
    return recorded is not None


def parse_json(content: bytes, name: str, *, remedy: str) -> dict[str, Any]:
    """Parses the JSON object in `content`.

    Args:
        content: the content of a file.
        name: the name of the file, for messages.
        remedy: what the user can do, for the end of the message.

    Raises:
        UserError: the content is not a JSON object.
    """
    try:
        values = json.loads(content.decode("utf8"))
    except RecursionError as error:
        raise UserError(f"'{name}' is nested too deeply: {remedy}") from error
    except ValueError as error:
        # The content is not JSON, is not UTF-8, or has a number of too many digits.
        reason = " ".join(str(error).split())
        raise UserError(f"'{name}' cannot be read ({reason}): {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{name}' cannot be read (it is not a JSON object): {remedy}")
    return values


def check_name(name: str, what: str) -> str:
    """Checks that a name from a user, a data set or a store can be the name of a file; returns it.

    Args:
        name: the name.
        what: the option or object that has the name, for messages, such as "--name" or "prior".

    Raises:
        UserError: a file with this name could be hidden or end up in another folder, or some file
            systems do not allow the name.
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
    """Checks that a user's file can be read several times, and to its end.

    Args:
        file: the path that the user gave.
        option: the option that has this value, for messages.

    Raises:
        UserError: the path does not exist, or is a folder, a pipe or a device.
    """
    if file.is_file():
        return
    if not file.exists() or file.is_dir():
        raise UserError(f"{option}: there is no file '{file}'")
    raise UserError(
        f"{option}: '{file}' is a pipe or a device: write what it holds to a file, and name that"
    )


def check_path(path: str, what: str) -> str:
    """Checks that a path from a data set or a store stays within its folder; returns it.

    Args:
        path: the relative path, with slashes.
        what: the object that has the path, for messages.

    Raises:
        UserError: the path could lead out of the folder, or no file can have this name.
    """
    # Backslashes and drive letters are rejected, too, because on Windows they could lead out of the
    # folder.
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
    """Returns a name, or its beginning if it is too long for a message."""
    if len(name) <= _SHOWN:
        return name
    return f"{name[:_SHOWN]}..."


def _open_no_link(path: str, flags: int) -> int:
    """Opens a file for `open` (its argument `opener`); fails if the path is a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _content(file: Path, remedy: str) -> bytes:
    """Returns the content of a file; raises UserError if it is missing or a folder."""
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: {remedy}") from error
    except IsADirectoryError as error:
        raise UserError(f"'{file}' is a folder, not a file: {remedy}") from error


def _checksum(values: Mapping[str, Any]) -> str:
    """Returns the checksum of values; order of keys, spaces and line breaks do not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
