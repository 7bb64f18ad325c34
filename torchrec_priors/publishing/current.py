"""Reads and writes `current.json`, which names the version that services load."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from torchrec_priors.common.files import read_json, sync_folder, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.version import check_version

CURRENT = "current.json"
_REMEDY = "publish a version again"


@dataclass(frozen=True)
class Current:
    """The published version.

    Attributes:
        version: the name of the version.
        published: when it was made the current one, in UTC (ISO 8601).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    version: str
    published: str


_READER: TypeAdapter[Current] = TypeAdapter(Current)


def write_current(folder: Path, current: Current) -> None:
    """Names another version, in one step: a reader sees the old name or the new one.

    The new name is on the disk when the function returns.
    """
    write_json(folder / CURRENT, asdict(current))
    sync_folder(folder)


def read_current(folder: Path) -> Current | None:
    """Reads which version is published; None if none is yet.

    Raises:
        UserError: the file is damaged, or does not have exactly the two keys.
        OSError: the file cannot be read.
    """
    file = folder / CURRENT
    if not file.exists():
        return None
    values = read_json(file, remedy=_REMEDY)
    try:
        current = _READER.validate_json(json.dumps(values))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(f"'{file}': '{key}': {problem['msg']}: {_REMEDY}") from error
    check_version(current.version, f"'{file}'")
    return current
