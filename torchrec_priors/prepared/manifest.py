"""`manifest.json` of a prepared data set: what it holds, how it was made, and the checksums of its files.

Written last, so that a folder with a manifest is a complete data set. Imports no torch.
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
HELD = "held/"  # the folder of what a later append may need
GROWN_FROM = "grown_from"  # in `made_by`
_REMEDY = "prepare again"
_SAID: set[str] = set()  # manifests without a checksum, each of which is told once
PRIOR_KINDS = (
    "event",
    "graph",
    "item",
    "user",
)  # a prior may have the name of one, as `event:event` names both


@dataclass(frozen=True)
class PriorInfo:
    """One prior of a data set.

    Attributes:
        kind: one of PRIOR_KINDS: `graph` is communities of items.
        groups: names, by group number.
        sizes: entities in each group (for events: training interactions).
        eligible: whether `priors/<name>.eligible.parquet` holds Omega where it differs from membership.
        made_by: settings of a prior that was added to the data set; empty for those that came with the raw files.
    """

    name: str
    kind: str
    groups: list[str]
    sizes: list[int]
    eligible: bool = False
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def grown_from(self) -> list[str]:
        """Checksums of the file of a prior that was added, before interactions were appended to the data set."""
        return list(self.made_by.get(GROWN_FROM, ()))

    @property
    def path(self) -> str:
        """Of its file in the data set's folder."""
        return f"priors/{self.name}.parquet"


@dataclass(frozen=True)
class FileInfo:
    """One file.

    Attributes:
        footer_sha256: of its Parquet footer, which has checksums of all else, so that a large file can be checked while
            it is read; empty where an earlier version wrote the manifest.
    """

    path: str
    bytes: int
    sha256: str
    footer_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The whole manifest; see the fields of the JSON file in docs/data.md, "Prepared data".

    Attributes:
        has_times: whether timestamps are times, or only say the order.
        grown: earlier states of a data set that was appended to, oldest first: `prepared_sha256`, `items`, `users` of
            each. Row ids below `items` are the same ever since. Not written where it is empty.
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
        """Raises UserError where the data set has no such prior."""
        for prior in self.priors:
            if prior.name == name:
                return prior
        names = [prior.name for prior in self.priors]
        raise UserError(f"data set '{self.name}' has no prior '{name}': {nearest(name, names)}")

    @property
    def prepared_sha256(self) -> str:
        """The hash of what `prepare` made of the raw files: priors that were added do not count."""
        added = {prior.path for prior in self.priors if prior.made_by}
        return hash_of(info for info in self.files if info.path not in added)

    def added_priors(self) -> dict[str, str]:
        """Name -> checksum of the file of each prior that was added."""
        checksums = {info.path: info.sha256 for info in self.files}
        return {prior.name: checksums[prior.path] for prior in self.priors if prior.made_by}

    def text(self) -> str:
        """Of the file."""
        values = asdict(self)
        if not self.grown:
            del values["grown"]
        for info in values["files"]:
            if not info["footer_sha256"]:
                del info["footer_sha256"]
        return json_text(values)

    def write(self, folder: Path) -> None:
        write_whole(folder / FILE, self.text())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared data set, after a check that every file is there in its full length.

    Raises:
        UserError: no manifest, a manifest of another version, a missing or truncated file.
    """
    file = folder / FILE
    if not folder.is_dir():
        raise UserError(f"--data: there is no folder '{folder}'")
    if not file.is_file():
        raise UserError(
            f"--data: '{folder}' is no prepared data set (it has no {FILE}): run prepare first"
        )
    manifest = parse_manifest(file.read_bytes(), str(file))
    for info in manifest.files:
        part = folder / info.path
        if not part.is_file():
            raise UserError(f"{part} is missing: prepare the data set again")
        if part.stat().st_size != info.bytes:
            raise UserError(
                f"{part} has {part.stat().st_size} bytes of {info.bytes}: prepare the data set again"
            )
    return manifest


def parse_manifest(content: bytes, file: str) -> Manifest:
    """The manifest in `file`, which holds `content`.

    Raises:
        UserError: it is no manifest, it is damaged, or one of another version.
    """
    values = parse_json(content, file, remedy=_REMEDY)
    if not take_checksum(values, file, remedy=_REMEDY) and file not in _SAID:
        log.info(
            "%s was written by an earlier version, without checksums of itself and of what is read in parts",
            file,
        )
        _SAID.add(file)
    try:
        version = values["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{file} is of version {version}; this release reads {SCHEMA_VERSION}: prepare again"
            )
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


def _check_names(priors: list[PriorInfo], files: list[FileInfo], file: str) -> None:
    """Raises UserError where a name would lead out of the data set's folder."""
    for prior in priors:
        check_name(prior.name, f"{file}: prior")
    for info in files:
        check_path(info.path, f"{file}: the file")


def is_data_set(folder: Path) -> bool:
    """Whether the folder was made by `prepare`, whole or damaged since; other programs write a `manifest.json`, too."""
    try:
        values = parse_json((folder / FILE).read_bytes(), FILE, remedy=_REMEDY)
    except (OSError, UserError):
        return False
    return {"schema_version", "content_sha256"} <= values.keys()


def verify(folder: Path) -> None:
    """Raises UserError where a file's checksum is not the manifest's. Reads every byte."""
    for info in read_manifest(folder).files:
        if sha256(folder / info.path) != info.sha256:
            raise UserError(
                f"{folder / info.path} does not match its checksum: prepare the data set again"
            )


def describe(folder: Path, paths: list[Path]) -> tuple[list[FileInfo], str]:
    """Sizes and checksums of `paths`, and one hash over all of them."""
    infos = [describe_file(path, str(path.relative_to(folder))) for path in sorted(paths)]
    return infos, hash_of(infos)


def describe_file(file: Path, path: str) -> FileInfo:
    """Size and checksum of `file`, whose place in the data set's folder is, or is to be, `path`."""
    with readable(file, _REMEDY):
        footer = read_footer(file)
    return FileInfo(path, file.stat().st_size, sha256(file), footer.sha256)


def hash_of(files: Iterable[FileInfo]) -> str:
    """One hash over all of them, but for what is only held for a later append, as it came."""
    lines = [f"{info.path} {info.sha256}\n" for info in files if not info.path.startswith(HELD)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
