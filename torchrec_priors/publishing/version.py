"""A published version: its name, and its manifest.

manifest.json    the name, the time, the run's checkpoint, and the length and checksum of each file
canary.json      requests and their answers (`canary.py`)
config.toml, data.json, paths.json, seen.parquet, checkpoints/    as in the folder of the run
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from torchrec_priors.common.files import (
    check_path,
    json_text,
    parse_json,
    take_checksum,
    write_whole,
)
from torchrec_priors.errors import UserError, shown
from torchrec_priors.training.checkpoint.manifest import Checksum

FORMAT = 1
MANIFEST = "manifest.json"
REMEDY = "publish it again under another name"

# Names are also parts of addresses and labels of metrics, so they have only these characters.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class MissingVersionError(UserError):
    """There is no such version, or its files are not visible yet, as on a network folder."""


@dataclass(frozen=True)
class Manifest:
    """What a published version contains.

    Attributes:
        name: the name of the version.
        created: when it was published, in UTC (ISO 8601).
        checkpoint: the name of the run's checkpoint.
        data_sha256: the checksum of the data set with which the version was checked.
        files: the length and checksum of each file, by its path in the version's folder.
        format: the format of the version's folder.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    name: str
    created: str
    checkpoint: str
    data_sha256: str
    files: dict[str, Checksum]
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """The length of all files."""
        return sum(file.bytes for file in self.files.values())


_READER: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def check_version(name: str, option: str = "--version") -> str:
    """Checks the name of a version; returns it.

    Args:
        name: the name.
        option: the option or file that has the name, for messages.

    Raises:
        UserError: the name could lead out of the folder, or cannot be a part of an address.
    """
    if _NAME.fullmatch(name) is None:
        raise UserError(
            f"{option}: {shown(name)} is no name of a version: write up to 64 letters, digits, "
            "'.', '_' and '-', the first one a letter or a digit"
        )
    return name


def now() -> str:
    """Returns the time in UTC, as manifests have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a version, completely or not at all."""
    write_whole(folder / MANIFEST, json_text(asdict(manifest)))


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a version.

    Raises:
        MissingVersionError: it is missing.
        UserError: it is damaged, or a later release has written it.
        OSError: it cannot be read.
    """
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingVersionError(
            f"'{folder}' is not a published version (no {MANIFEST}): publish it again"
        ) from error

    values = parse_json(content, str(file), remedy=REMEDY)
    has_checksum = take_checksum(values, str(file), remedy=REMEDY)
    number = values.get("format")
    if has_checksum and isinstance(number, int) and number > FORMAT:
        raise UserError(
            f"'{file}' is of format {number}, but this release reads only up to {FORMAT}: "
            "update torchrec_priors"
        )

    # Every byte is as it was written, also spaces and the key of the checksum.
    if not has_checksum or json_text(values).encode() != content:
        raise UserError(f"'{file}' is not as it was written: {REMEDY}")
    try:
        manifest = _READER.validate_json(json.dumps(values))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(f"'{file}': '{key}': {problem['msg']}: {REMEDY}") from error

    for path in manifest.files:
        check_path(path, f"'{file}': the path")
    return manifest
