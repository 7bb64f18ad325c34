"""`manifest.json` of a prepared data set: its content, its settings, checksums of its files.

It is written last, so a folder with a manifest is a complete data set. Nothing here imports torch.
"""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import (
    check_name,
    check_path,
    json_text,
    parse_json,
    take_checksum,
    write_whole,
)
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.parquet import read_footer, readable

log = logging.getLogger(__name__)

FILE = "manifest.json"
SCHEMA_VERSION = 1
# The folder of files that a later append may need.
HELD = "held/"
# A key of `PriorInfo.made_by`.
GROWN_FROM = "grown_from"
# A prior may have the name of a kind, since `event:event` names both.
PRIOR_KINDS = ("event", "graph", "item", "user")

_REMEDY = "prepare again"
# Manifests without a checksum, each of which is logged once.
_LOGGED: set[str] = set()


@dataclass(frozen=True)
class PriorInfo:
    """One prior of a data set.

    Attributes:
        kind: one of PRIOR_KINDS; `graph` is communities of items.
        groups: names of the groups, by group number.
        sizes: number of entities in each group (for events: of training interactions).
        eligible: whether `priors/<name>.eligible.parquet` has Omega, as it differs from membership.
        made_by: settings of a prior that was added to the data set; empty for a prior that came
            with the raw files.
    """

    name: str
    kind: str
    groups: list[str]
    sizes: list[int]
    eligible: bool = False
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def grown_from(self) -> list[str]:
        """Checksums of an added prior's file before interactions were appended to the data set."""
        return list(self.made_by.get(GROWN_FROM, ()))

    @property
    def path(self) -> str:
        """The path of its file in the data set's folder."""
        return f"priors/{self.name}.parquet"


@dataclass(frozen=True)
class FileInfo:
    """One file.

    Attributes:
        path: path in the data set's folder.
        footer_sha256: checksum of its Parquet footer. The footer has checksums of everything else,
            so a large file can be checked while it is read. Empty if an earlier version wrote the
            manifest.
    """

    path: str
    bytes: int
    sha256: str
    footer_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The whole manifest; docs/data.md, "Prepared data", describes the fields of the JSON file.

    Attributes:
        has_times: whether timestamps are times, or only give the order.
        grown: earlier states of a data set that was appended to, oldest first: `prepared_sha256`,
            `items`, `users` of each. Row ids below `items` have not changed since. Not written if
            empty.
    """

    name: str
    horizon: int
    counts: dict[str, Any]
    split: str
    events: list[str]
    category_prior: str
    user_group: str | None
    priors: list[PriorInfo]
    settings: dict[str, Any]
    files: list[FileInfo]
    content_sha256: str
    has_times: bool = True
    grown: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def prior(self, name: str) -> PriorInfo:
        """The prior of this name. Raises UserError if the data set has no such prior."""
        for prior in self.priors:
            if prior.name == name:
                return prior
        names = [prior.name for prior in self.priors]
        raise UserError(f"data set '{self.name}' has no prior '{name}': {nearest(name, names)}")

    @property
    def prepared_sha256(self) -> str:
        """The hash of what `prepare` made of the raw files, i.e. without priors that were added."""
        added = {prior.path for prior in self.priors if prior.made_by}
        return hash_of(info for info in self.files if info.path not in added)

    def added_priors(self) -> dict[str, str]:
        """Maps the name of each prior that was added to the checksum of its file."""
        checksums = {info.path: info.sha256 for info in self.files}
        return {prior.name: checksums[prior.path] for prior in self.priors if prior.made_by}

    def text(self) -> str:
        """The text of the file."""
        values = asdict(self)

        # Empty fields are left out, so that what earlier versions wrote stays the same text.
        if not self.grown:
            del values["grown"]
        for info in values["files"]:
            if not info["footer_sha256"]:
                del info["footer_sha256"]
        return json_text(values)

    def write(self, folder: Path) -> None:
        """Writes the file, completely or not at all."""
        write_whole(folder / FILE, self.text())


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a prepared data set, and checks that every file has its full length.

    Raises:
        UserError: no manifest, a manifest of another version, a missing or truncated file.
    """
    file = folder / FILE
    if not folder.is_dir():
        raise UserError(f"--data: there is no folder '{folder}'")
    if not file.is_file():
        raise UserError(
            f"--data: '{folder}' is not a prepared data set (it has no {FILE}): run prepare first"
        )

    # Lengths only: reading all bytes is `verify`'s task, or the reader's.
    manifest = parse_manifest(file.read_bytes(), str(file))
    for info in manifest.files:
        part = folder / info.path
        if not part.is_file():
            raise UserError(f"{part} is missing: prepare the data set again")
        if part.stat().st_size != info.bytes:
            raise UserError(
                f"{part} has {part.stat().st_size} of {info.bytes} bytes: "
                "prepare the data set again"
            )
    return manifest


def parse_manifest(content: bytes, file: str) -> Manifest:
    """Parses the manifest in `file`, which holds `content`.

    Raises:
        UserError: it is not a manifest, it is damaged, or it has another version.
    """
    values = parse_json(content, file, remedy=_REMEDY)
    has_checksum = take_checksum(values, file, remedy=_REMEDY)
    if not has_checksum and file not in _LOGGED:
        log.info(
            "%s was written by an earlier version, without checksums of itself and of what is read "
            "in parts",
            file,
        )
        _LOGGED.add(file)

    try:
        version = values["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{file} has version {version}; this release reads version {SCHEMA_VERSION}: "
                "prepare again"
            )
        # A missing or unknown field is a TypeError of the dataclass, which becomes one line below.
        values["priors"] = [PriorInfo(**prior) for prior in values["priors"]]
        values["files"] = [FileInfo(**info) for info in values["files"]]
        _check_names(values["priors"], values["files"], file)
        return Manifest(**values)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {error}): prepare again"
        ) from error


def is_data_set(folder: Path) -> bool:
    """Whether `prepare` wrote the folder, which may have been damaged since."""
    # Other programs write a `manifest.json`, too, so its keys decide.
    try:
        values = parse_json((folder / FILE).read_bytes(), FILE, remedy=_REMEDY)
    except (OSError, UserError):
        return False
    return {"schema_version", "content_sha256"} <= values.keys()


def verify(folder: Path) -> None:
    """Raises UserError if a file's checksum is not the manifest's. Reads every byte."""
    # Missing and short files are found by `read_manifest` before any file is read.
    for info in read_manifest(folder).files:
        if sha256(folder / info.path) != info.sha256:
            raise UserError(
                f"{folder / info.path} does not match its checksum: prepare the data set again"
            )


def describe(folder: Path, paths: list[Path]) -> tuple[list[FileInfo], str]:
    """Sizes and checksums of `paths`, and one hash over all of them."""
    # Sorted, as the hash depends on the order.
    infos = [describe_file(path, str(path.relative_to(folder))) for path in sorted(paths)]
    return infos, hash_of(infos)


def describe_file(file: Path, path: str) -> FileInfo:
    """Size and checksums of `file`, which is or will be at `path` in the data set's folder."""
    with readable(file, _REMEDY):
        footer = read_footer(file)
    return FileInfo(path, file.stat().st_size, sha256(file), footer.sha256)


def hash_of(files: Iterable[FileInfo]) -> str:
    """One hash over all files except those in HELD, which keep raw rows as they came."""
    lines = [f"{info.path} {info.sha256}\n" for info in files if not info.path.startswith(HELD)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_names(priors: list[PriorInfo], files: list[FileInfo], file: str) -> None:
    """Raises UserError if a name would lead out of the data set's folder."""
    # The data set may have come from somebody else.
    for prior in priors:
        check_name(prior.name, f"{file}: prior")
    for info in files:
        check_path(info.path, f"{file}: the file")
