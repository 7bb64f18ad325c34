"""`data.json` of a run: what decides it besides its configuration, recorded before its first step."""

import functools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError

FORMAT = 2
_SIGNED_SINCE = 2  # format from which on the run's files have checksums


@dataclass(frozen=True)
class Ancestor:
    """A run whose weights, or exported vectors, a run's weights come from.

    Attributes:
        run: where it was.
        checkpoint: name of the one that was taken.
        identity: `RunFolder.identity`.
        data_sha256: `Manifest.prepared_sha256` of what it was trained on.
        fit_all: whether it was trained on validation and test interactions, too.
        known: whether `trained.parquet` tells what it was trained on.
    """

    run: str
    checkpoint: str = ""
    identity: str = ""
    data_sha256: str = ""
    fit_all: bool = False
    known: bool = True


@dataclass(frozen=True)
class Origin:
    """
    Attributes:
        path: of the prepared data set, or its URI.
        content_sha256: `Manifest.prepared_sha256` of its state then.
        priors: checksums of the added priors that the run uses, by name.
        groups: how many groups each prior had.
        events: the event types.
        init_from: where the run was that this one started from.
        init_from_id: its `identity`; None where an earlier version recorded it.
        ancestors: the runs that this one's weights come from, the nearest first; None where an earlier version
            recorded none.
        own_files: checksums of the user's own Python files, by path.
        files: checksums of files of the run that hold none themselves, by name.
        run_id: also in the files that are written later, so that those of another run are known; empty where an earlier
            version recorded none.
        format: of the run's files.
    """

    path: str
    content_sha256: str
    priors: dict[str, str] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    events: list[str] | None = None
    init_from: str | None = None
    init_from_id: str | None = None
    ancestors: list[Ancestor] | None = None
    own_files: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    run_id: str = ""
    format: int = 1

    @property
    def signed(self) -> bool:
        """Whether all files of the run have checksums."""
        return self.format >= _SIGNED_SINCE


def write_origin(file: Path, origin: Origin) -> None:
    """Whole or not at all."""
    write_json(file, asdict(origin))


def read_origin(file: Path) -> Origin:
    """What `write_origin` wrote.

    Raises:
        UserError: the file is missing, or not what was written; or a later version wrote it.
    """
    values: dict[str, Any] = read_json(file, remedy="put it back, or train again")
    try:
        origin = _reader().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        what = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"'{file}' cannot be read ('{what}': {problem['msg']}): put it back, or train again"
        ) from error
    if origin.format > FORMAT:
        raise UserError(
            f"'{file}' is of format {origin.format}, and this release reads up to {FORMAT}: update it"
        )
    return origin


@functools.cache
def _reader() -> TypeAdapter[Origin]:
    """Made once: it takes much longer than it takes to read."""
    return TypeAdapter(Origin)
