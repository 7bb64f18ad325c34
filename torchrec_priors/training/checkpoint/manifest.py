"""Reads the manifest of a checkpoint, `checksums.json`: its format, and its files' checksums."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import take_checksum
from torchrec_priors.errors import UserError
from torchrec_priors.training.checkpoint.keys import (
    FILES,
    FORMAT,
    FORMAT_NUMBER,
    MANIFEST,
    NUMBERED_SINCE,
)


@dataclass(frozen=True)
class Checksum:
    """The length of a file and the SHA-256 of its content."""

    bytes: int
    sha256: str


class NewerFormatError(UserError):
    """A later release has written the checkpoint."""


def read_manifest(place: Path) -> dict[str, Checksum]:
    """Reads the checksums of a checkpoint's files, by name.

    Raises:
        NewerFormatError: a later release has written the checkpoint, in a format that this release
            cannot read.
        ValueError: the file is not a manifest, or is damaged.
        OSError: the file cannot be read.
    """
    values = _read(place)

    # A later format may arrange the other keys differently, so the format is checked first.
    number = _format_of(values)
    if number > FORMAT:
        raise NewerFormatError(
            f"checkpoint '{place}' is of format {number}, but this release reads only up to "
            f"{FORMAT}: update torchrec_priors"
        )

    # The files with these names are read later, so a name must not lead out of the folder.
    try:
        files = values[FILES]
        for name in files:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"{name!r} is not a file of the checkpoint")
        return {name: Checksum(**checksum) for name, checksum in files.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no manifest: {error}") from error


def format_of(place: Path) -> int:
    """Returns the format of an undamaged checkpoint; 1 if it has no manifest."""
    if not (place / MANIFEST).is_file():
        return 1
    return _format_of(_read(place))


def _read(place: Path) -> dict[str, Any]:
    """Reads the values of the manifest and checks its own checksum."""
    values = json.loads((place / MANIFEST).read_text(encoding="utf8"))
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")

    try:
        has_checksum = take_checksum(values, MANIFEST, remedy="")
    except UserError as error:
        raise ValueError("it does not match its checksum") from error

    # From this format on the checksum must exist. Otherwise, if its key were damaged, the file
    # would be read without a check.
    if not has_checksum and _format_of(values) >= NUMBERED_SINCE:
        raise ValueError("it has no checksum")
    return values


def _format_of(values: dict[str, Any]) -> int:
    number = values.get(FORMAT_NUMBER, 1)
    if type(number) is not int or number < 1:
        raise ValueError(f"{number!r} is not a format")
    return number
