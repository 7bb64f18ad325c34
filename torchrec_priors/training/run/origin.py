"""`data.json` of a run: what decides it in addition to its configuration.

It is written before the run's first step.
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
    """A run whose weights, or exported vectors, a run's weights come from.

    Attributes:
        run: where its folder was.
        checkpoint: the name of the checkpoint that was taken.
        identity: its `RunFolder.identity`.
        data_sha256: `Manifest.prepared_sha256` of the data that it was trained on.
        fit_all: whether it was trained on validation and test interactions, too.
        known: whether `trained.parquet` says what it was trained on.
    """

    run: str
    checkpoint: str = ""
    identity: str = ""
    data_sha256: str = ""
    fit_all: bool = False
    known: bool = True


@dataclass(frozen=True)
class Origin:
    """What a run was trained on and what its weights come from.

    Attributes:
        path: the path of the prepared data set, or its URI.
        content_sha256: `Manifest.prepared_sha256` of the data set when the run began.
        priors: checksums of the added priors that the run uses, by name.
        groups: the number of groups of each prior then.
        events: the event types.
        init_from: where the folder of the run was that this one started from.
        init_from_id: its `identity`; None if an earlier version recorded the run.
        ancestors: the runs that this one's weights come from, the nearest first; None if an earlier
            version recorded the run.
        own_files: checksums of the user's own Python files, by path.
        files: checksums of files of the run that hold none themselves, by name.
        run_id: is also in the files that are written later, so those of another run are noticed;
            empty if an earlier version recorded the run.
        format: the format of the run's files.
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
    """Writes the whole file or nothing."""
    write_json(file, asdict(origin))


def read_origin(file: Path) -> Origin:
    """Reads what `write_origin` wrote.

    Raises:
        UserError: the file is missing, is not what was written, or a later version wrote it.
    """
    values: dict[str, Any] = read_json(file, remedy="put it back, or train again")
    try:
        # Through JSON text: in strict mode, Python values would have to be dataclasses already.
        origin = _reader().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        # Pydantic lists all problems on many lines; one is enough to know that it is damaged.
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"'{file}' cannot be read ('{key}': {problem['msg']}): put it back, or train again"
        ) from error

    # A later format may mean something else by the same keys.
    if origin.format > FORMAT:
        raise UserError(
            f"'{file}' is of format {origin.format}, and this release reads up to {FORMAT}: "
            "update it"
        )
    return origin


@functools.cache
def _reader() -> TypeAdapter[Origin]:
    """Creates the reader once, since creating it takes much longer than reading."""
    return TypeAdapter(Origin)
