"""Reads and writes `data.json`, which records a run's data set and the origin of its weights.

Together with the configuration, these decide the results of the run. The file is written before the
run's first step.
"""

import functools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError

FORMAT = 2
_SIGNED_SINCE = 2  # the first format in which all of the run's files have checksums


@dataclass(frozen=True)
class Ancestor:
    """An earlier run from which a run has taken weights or exported vectors.

    Attributes:
        run: the path of the earlier run's folder at that time.
        checkpoint: the name of the checkpoint that the weights come from.
        identity: `RunFolder.identity` of the earlier run.
        data_sha256: `Manifest.prepared_sha256` of the data that the earlier run was trained on.
        fit_all: whether the earlier run was also trained on validation and test interactions.
        known: whether `trained.parquet` says what the earlier run was trained on.
    """

    run: str
    checkpoint: str = ""
    identity: str = ""
    data_sha256: str = ""
    fit_all: bool = False
    known: bool = True


@dataclass(frozen=True)
class UsedContent:
    """Vectors of items that a run was trained with.

    Attributes:
        identity, dim: see `ContentInfo`.
        sha256: the checksum of the file.
    """

    identity: str
    dim: int
    sha256: str


@dataclass(frozen=True)
class Origin:
    """The data that a run was trained on, and the runs that its initial weights come from.

    Attributes:
        path: the path or URI of the prepared data set.
        content_sha256: `Manifest.prepared_sha256` of the data set when the run began.
        priors: the checksums of the added priors that the run uses, by name.
        content: the vectors of items that the run uses, by name.
        groups: the number of groups that each prior had when the run began.
        events: the event types of the data set.
        init_from: the path, at that time, of the run that `--init-from` named; None if there was
            no such run.
        init_from_id: `RunFolder.identity` of that run; None if an earlier version of this project
            recorded the run.
        ancestors: the runs that the initial weights come from, the nearest first; None if an
            earlier version of this project recorded the run.
        own_files: the checksums of the user's own Python files, by path.
        files: the checksums of files of the run that contain no checksum themselves, by name.
        run_id: an id that is also written into the run's later files, so that a file of another
            run is noticed; empty if an earlier version of this project recorded the run.
        format: the format of the run's files.
    """

    path: str
    content_sha256: str
    priors: dict[str, str] = field(default_factory=dict)
    content: dict[str, UsedContent] = field(default_factory=dict)
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
    """Writes the file, completely or not at all."""
    write_json(file, asdict(origin))


def read_origin(file: Path) -> Origin:
    """Reads what `write_origin` wrote.

    Raises:
        UserError: the file is missing or damaged, or a later version has written it.
    """
    values: dict[str, Any] = read_json(file, remedy="put it back, or train again")
    try:
        # Pydantic gets JSON text, because in strict mode it does not convert Python dictionaries
        # to dataclasses.
        origin = _reader().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        # Pydantic lists all problems on many lines. One is enough to see that the file is damaged.
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"'{file}' cannot be read ('{key}': {problem['msg']}): put it back, or train again"
        ) from error

    # In a later format, the same keys may have another meaning.
    if origin.format > FORMAT:
        raise UserError(
            f"'{file}' is of format {origin.format}, but this release reads only up to {FORMAT}: "
            "update torchrec_priors"
        )
    return origin


@functools.cache
def _reader() -> TypeAdapter[Origin]:
    """Creates the reader only once, because this takes much longer than reading a file."""
    return TypeAdapter(Origin)
