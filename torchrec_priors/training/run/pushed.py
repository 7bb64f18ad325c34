"""The folder of a run that was pushed. It has what serving reads, and nothing that can run code.

README.md                the card of the model, for people and for the hub
pushed.json              the checkpoint, and the length and checksum of every other file
model.safetensors        the weights; large ones are in several files, `model-00001-of-00002...`
config.toml, data.json, paths.json, seen.parquet    as in the folder of the run, without its paths
data/                    the data set without its users: items, labels, manifest
serving/popularity.safetensors    for requests without a history, if groups of users have heads
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import check_path, read_json, write_json
from torchrec_priors.errors import UserError

FILE = "pushed.json"
CARD = "README.md"
DATA = "data"
POPULARITY = "serving/popularity.safetensors"
WEIGHTS = "model*.safetensors"
FORMAT = 1

_REMEDY = "push or fetch it again"
# Files that Python, PyTorch or NumPy would unpickle, which can run any code.
_MAY_RUN_CODE = (
    ".bin",
    ".ckpt",
    ".distcp",
    ".joblib",
    ".metadata",
    ".npy",
    ".npz",
    ".pickle",
    ".pkl",
    ".pt",
    ".pth",
)


@dataclass(frozen=True)
class PushedFile:
    """The length of a file, and the SHA-256 of its content."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pushed:
    """What a pushed run contains.

    Attributes:
        checkpoint: the name of the checkpoint that the weights come from.
        files: the length and checksum of every other file, by its path in the folder. The card is
            not among them, so it may be edited.
        format: the format of the folder.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    checkpoint: str
    files: dict[str, PushedFile]
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """The length of all files."""
        return sum(file.bytes for file in self.files.values())


_READER: TypeAdapter[Pushed] = TypeAdapter(Pushed)


def write_pushed(folder: Path, pushed: Pushed) -> None:
    """Writes `pushed.json`, completely or not at all."""
    write_json(folder / FILE, asdict(pushed))


def read_pushed(folder: Path) -> Pushed:
    """Reads `pushed.json`.

    Raises:
        UserError: it is missing or damaged, or a later release has written it.
    """
    file = folder / FILE
    values = read_json(file, remedy=_REMEDY)
    number = values.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise UserError(
            f"'{file}' is of format {number}, but this release reads only up to {FORMAT}: "
            "update torchrec_priors"
        )
    try:
        pushed = _READER.validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(f"'{file}' is not what push writes: {_REMEDY}") from error
    for path in pushed.files:
        check_path(path, f"'{file}': the path")
    return pushed


def check(folder: Path) -> None:
    """Checks that a pushed folder has all files, and none that can run code.

    Raises:
        UserError: a file is missing or has changed, or may be a pickle.
    """
    for file in sorted(folder.rglob("*")):
        if may_run_code(file.name):
            raise UserError(
                f"'{file}' may be a pickle, which can run any code: remove it, or do not load "
                f"'{folder}'"
            )
    for path, expected in read_pushed(folder).files.items():
        file = folder / path
        if not file.is_file():
            raise UserError(f"'{file}' is missing: {_REMEDY}")
        if file.stat().st_size != expected.bytes:
            raise UserError(
                f"'{file}' has {file.stat().st_size:,} bytes instead of {expected.bytes:,}: "
                f"{_REMEDY}"
            )
        # Large files are compared with their checksums when they are read.
        is_read_later = file.match(WEIGHTS) or path.startswith(f"{DATA}/")
        if not is_read_later and sha256(file) != expected.sha256:
            raise UserError(f"'{file}' does not match its checksum: {_REMEDY}")


def may_run_code(name: str) -> bool:
    """Returns whether a file with this name may be a pickle."""
    return name.lower().endswith(_MAY_RUN_CODE)
