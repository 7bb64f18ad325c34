"""The one door for our own files: written whole or not at all, read only as they were written.

A file is made beside its place, as `.NAME.partial`, and moved there at the end. A partial file is always made anew and
exclusively: what a kill left is removed, and a link that somebody planted under its name is removed, never followed.
JSON files of ours carry a checksum of their content, so that a damaged one is named in place of being believed.
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

CHECKSUM = "sha256"  # key of the checksum in a JSON file of ours

_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_NAME = 200  # bytes; file systems take 255, and we add to names


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """The path of an empty file beside `file`, which takes the place of `file` at the end; it is removed on an error.

    One process at a time may write a file.

    Raises:
        UserError: `file` is there and is no regular file.
        OSError: the folder is missing, full or not writable.
    """
    check_replaceable(file)
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
    """Where `file` is while it is being written."""
    return file.with_name(f".{file.name}.partial")


def remove_leftover(path: Path) -> None:
    """Removes what lies there, if anything: a file, or a folder with all that is in it; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_replaceable(file: Path) -> None:
    """Raises UserError where `file` is there and is no regular file, as a folder, a device or a pipe; a link counts as
    what it names."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise UserError(f"'{file}' is a folder: name a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"'{file}' is not a regular file, so it is not replaced: name another file")


def append_to(file: Path) -> TextIO:
    """Opens a text to add to; it is made where it is not there, and a link is not followed.

    Raises:
        OSError: it is a link, or cannot be written.
    """
    return open(file, "a", encoding="utf8", opener=_not_through_a_link)


def check_no_link(folder: Path, root: Path) -> None:
    """Raises UserError where `folder`, or one between it and `root`, is a link: what is written there would leave
    `root`, which may have come from somebody else."""
    for place in (folder, *folder.parents):
        if place == root:
            return
        if place.is_symlink():
            raise UserError(
                f"'{place}' is a link, through which nothing is written: make it a folder, or link '{root}' as a whole"
            )


def write_whole(file: Path, text: str) -> None:
    """Replaces `file` by `text` in one move, so that a reader or a kill never meets a part of it."""
    with new_file(file) as partial, partial.open("w", encoding="utf8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """An object as JSON with a checksum of its content; folders above it are made.

    Args:
        values: no key is "sha256".
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json_text(values))


def json_text(values: Mapping[str, Any]) -> str:
    """What `write_json` writes."""
    assert CHECKSUM not in values
    content = json.loads(
        json.dumps(values)
    )  # as a reader will see it: keys are texts, tuples are lists
    signed = {**content, CHECKSUM: _checksum(content)}
    return json.dumps(signed, indent=1, ensure_ascii=False) + "\n"


def read_json(file: Path, *, remedy: str) -> dict[str, Any]:
    """What `write_json` wrote, without its checksum. A file of an earlier version, which has none, is read as it is.

    Args:
        remedy: what a person can do about a damaged file; it ends the message.

    Raises:
        UserError: the file is missing, cannot be read, is no JSON object, or is not what was written.
    """
    values = parse_json(_bytes(file, remedy), str(file), remedy=remedy)
    take_checksum(values, str(file), remedy=remedy)
    return values


def take_checksum(values: dict[str, Any], name: str, *, remedy: str) -> bool:
    """Takes the checksum out of what `parse_json` found; whether there was one.

    Raises:
        UserError: the values are not what was written.
    """
    recorded = values.pop(CHECKSUM, None)
    if recorded is not None and recorded != _checksum(values):
        raise UserError(f"'{name}' is damaged (it does not match its checksum): {remedy}")
    return recorded is not None


def parse_json(content: bytes, name: str, *, remedy: str) -> dict[str, Any]:
    """The object that `content` holds.

    Args:
        name: of the file it comes from, for messages.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        values = json.loads(content.decode("utf8"))
    except RecursionError as error:
        raise UserError(f"'{name}' is nested too deep: {remedy}") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of too many digits
        reason = " ".join(str(error).split())
        raise UserError(f"'{name}' cannot be read ({reason}): {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{name}' cannot be read (it holds no JSON object): {remedy}")
    return values


def check_name(name: str, what: str) -> str:
    """`name`, which is to become the name of a file; it comes from a person, a data set or a store.

    Args:
        what: what has the name, for messages: "--name", "prior".

    Raises:
        UserError: it could lead out of the folder, hide, or not be written on every file system.
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
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise UserError(f"{what}: {shown!r} {problem}: choose another name")
    return name


def check_file(file: Path, option: str) -> None:
    """A file that the user named can be read, as often as need be, and ends.

    Raises:
        UserError: it is not there, or is a folder, a pipe or a device.
    """
    if file.is_file():
        return
    if not file.exists() or file.is_dir():
        raise UserError(f"{option}: there is no file '{file}'")
    raise UserError(
        f"{option}: '{file}' is a pipe or a device: write what it holds to a file, and name that"
    )


def check_path(path: str, what: str) -> str:
    """`path` of a file in a folder, with slashes; it comes from a data set or a store.

    Args:
        what: what has the path, for messages.

    Raises:
        UserError: it could lead out of the folder, or no file can be called so.
    """
    parts = path.split("/")
    problem = None
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or _DRIVE.match(path):
        problem = "leads out of the folder, or to no file"
    elif any(unicodedata.category(mark) in ("Cc", "Cs") for mark in path):
        problem = "has a control character"
    elif max(len(part.encode()) for part in parts) > _LONGEST_NAME:
        problem = f"has a part longer than {_LONGEST_NAME} bytes"
    if problem:
        shown = path if len(path) <= 60 else f"{path[:60]}..."
        raise UserError(f"{what} {shown!r} {problem}: rename it there")
    return path


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _bytes(file: Path, remedy: str) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: {remedy}") from error
    except IsADirectoryError as error:
        raise UserError(f"'{file}' is a folder, not a file: {remedy}") from error


def _checksum(values: Mapping[str, Any]) -> str:
    """Of the content, whatever its layout in a file."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
