"""Reads and writes `manifest.json`, which describes a prepared data set.

The manifest holds the counts, priors and settings of the data set, and the checksums of its files.
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
from torchrec_priors.errors import UserError, nearest, no_such_folder
from torchrec_priors.parquet import read_footer, readable

log = logging.getLogger(__name__)

FILE = "manifest.json"
SCHEMA_VERSION = 1
# The folder with the interactions of the users.
SEQUENCES = "sequences/"
# The folder with the interactions of users who were left out. A later `--append` may need them.
HELD = "held/"
# This key of `PriorInfo.made_by` lists checksums; see `PriorInfo.grown_from`.
GROWN_FROM = "grown_from"
# The kinds of priors. A prior may have the name of a kind, because `event:event` in `priors.tree`
# gives both the kind and the name.
PRIOR_KINDS = ("event", "graph", "item", "user")

_REMEDY = "prepare again"
# Manifests without a checksum that have already been logged. Each of them is logged only once.
_LOGGED: set[str] = set()


@dataclass(frozen=True)
class PriorInfo:
    """One prior of a data set.

    Attributes:
        name: the name of the prior, as in `priors.tree`.
        kind: one of PRIOR_KINDS; `graph` stands for communities of items.
        groups: the names of the groups, by group number.
        sizes: the number of items or users in each group. For events, the number of training
            interactions.
        eligible: whether `priors/<name>.eligible.parquet` exists. It lists the items that each
            group's head may retrieve (the paper's Omega), if these are not simply its members.
        made_by: the settings of a prior that was added to the data set; empty for a prior that
            came with the raw files.
        words: what a group is called in reasons for people, with `{}` in the place of its name,
            such as "{} films"; empty for the usual words. It is not written to the file if it is
            empty.
    """

    name: str
    kind: str
    groups: list[str]
    sizes: list[int]
    eligible: bool = False
    made_by: dict[str, Any] = field(default_factory=dict)
    words: str = ""

    @property
    def grown_from(self) -> list[str]:
        """The checksums that an added prior's file had before interactions were appended."""
        return list(self.made_by.get(GROWN_FROM, ()))

    @property
    def path(self) -> str:
        """The path of the prior's file in the data set's folder."""
        return f"priors/{self.name}.parquet"


@dataclass(frozen=True)
class ContentInfo:
    """What describes items: vectors, such as those of their titles, or the tokens of their texts.

    Attributes:
        name: the name of the content, as in `embedding.content`, or in `items.content` for tokens.
        items: the number of items that have content.
        dim: the width of the vectors; for tokens, the largest number that is allowed.
        identity: what the vectors were made with. Vectors with the same identity are comparable: a
            checksum of the sentence model with the names of the columns, or what the user says.
        made_by: the settings of the command that added the vectors.
    """

    name: str
    items: int
    dim: int
    identity: str
    made_by: dict[str, Any]

    @property
    def path(self) -> str:
        """The path of the file of content in the data set's folder."""
        return f"content/{self.name}.parquet"

    @property
    def has_tokens(self) -> bool:
        """Whether the content is tokens instead of vectors."""
        return self.made_by.get("kind") == "tokens"


@dataclass(frozen=True)
class FileInfo:
    """One file of a data set.

    Attributes:
        path: the path of the file in the data set's folder.
        bytes: the size of the file.
        sha256: the checksum of the whole file.
        footer_sha256: the checksum of the Parquet footer. The footer contains checksums of
            everything else, so a large file can be checked while it is read. Empty if an earlier
            version wrote the manifest.
    """

    path: str
    bytes: int
    sha256: str
    footer_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The whole manifest. The section "Prepared data" of docs/data.md describes its content.

    Attributes:
        has_times: whether timestamps are times, or only give the order.
        grown: the states of the data set before each append, oldest first, with the keys
            `prepared_sha256`, `items` and `users`. Row ids below `items` have not changed since
            that state. An empty list is not written to the file.
        content: the vectors of items that were added. An empty list is not written to the file.
        absent: the paths of files that this copy of the data set lacks, such as those of its users.
            `files` has them nevertheless, so the checksums of the data set stay the same. An empty
            list is not written to the file.
        most_groups: for each prior of users whose file is absent, the largest number of groups
            that a user is in.
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
    content: list[ContentInfo] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    most_groups: dict[str, int] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def prior(self, name: str) -> PriorInfo:
        """Returns the prior with this name. Raises UserError if the data set has no such prior."""
        for prior in self.priors:
            if prior.name == name:
                return prior
        names = [prior.name for prior in self.priors]
        raise UserError(f"data set '{self.name}' has no prior '{name}': {nearest(name, names)}")

    def content_of(self, name: str) -> ContentInfo:
        """Returns the vectors with this name. Raises UserError if the data set has none."""
        for info in self.content:
            if info.name == name:
                return info
        if not self.content:
            raise UserError(
                f"data set '{self.name}' has no content '{name}': add it with `torchrec-priors "
                f"content encode --name {name}`"
            )
        names = [info.name for info in self.content]
        raise UserError(f"data set '{self.name}' has no content '{name}': {nearest(name, names)}")

    @property
    def prepared_sha256(self) -> str:
        """The hash of the files that `prepare` wrote, without what was added later."""
        added = {prior.path for prior in self.priors if prior.made_by}
        added |= {info.path for info in self.content}
        return hash_of(info for info in self.files if info.path not in added)

    def added_priors(self) -> dict[str, str]:
        """Returns the checksum of the file of each prior that was added, by the prior's name."""
        checksums = {info.path: info.sha256 for info in self.files}
        return {prior.name: checksums[prior.path] for prior in self.priors if prior.made_by}

    @property
    def has_users(self) -> bool:
        """Whether this copy of the data set has the interactions of its users."""
        return not any(path.startswith(SEQUENCES) for path in self.absent)

    def require_users(self, what: str, folder: object) -> None:
        """Raises UserError if this copy of the data set lacks its users.

        Args:
            what: what needs the users, for the message.
            folder: the place of the data set, for the message.
        """
        if not self.has_users:
            raise UserError(
                f"'{folder}' holds data set '{self.name}' without its users, whom {what} needs: "
                "give the whole data set (--data)"
            )

    def text(self) -> str:
        """Returns the text of `manifest.json`."""
        values = asdict(self)

        # Fields that earlier versions did not have are left out if they are empty. A manifest of an
        # earlier version then keeps its text, and with it its checksum.
        for name in ("grown", "content", "absent", "most_groups"):
            if not values[name]:
                del values[name]
        for prior in values["priors"]:
            if not prior["words"]:
                del prior["words"]
        for info in values["files"]:
            if not info["footer_sha256"]:
                del info["footer_sha256"]
        return json_text(values)

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`, completely or not at all."""
        write_whole(folder / FILE, self.text())


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a prepared data set, and checks that every file has its full length.

    Raises:
        UserError: there is no manifest, it has another version, or a file is missing or truncated.
    """
    file = folder / FILE
    if not folder.is_dir():
        if folder.is_file():
            raise UserError(
                f"--data: '{folder}' is a file, not a prepared data set: prepare it first, and "
                "give the folder that prepare wrote"
            )
        raise UserError(f"--data: {no_such_folder(folder)}")
    if not file.is_file():
        raise UserError(
            f"--data: '{folder}' is not a prepared data set (it has no {FILE}): run prepare first"
        )

    # Only lengths are compared here. Checksums are compared by `verify`, or when a file is read.
    manifest = parse_manifest(file.read_bytes(), str(file))
    for info in manifest.files:
        if info.path in manifest.absent:
            continue
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
    """Parses a manifest.

    Args:
        content: the bytes of the manifest.
        file: the file that they were read from, for messages.

    Raises:
        UserError: the content is not a manifest, is damaged, or has another version.
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
        # If a field is missing or unknown, the dataclass raises a TypeError, which becomes a
        # one-line message below.
        values["priors"] = [PriorInfo(**prior) for prior in values["priors"]]
        values["content"] = [ContentInfo(**info) for info in values.get("content", ())]
        values["files"] = [FileInfo(**info) for info in values["files"]]
        named = [*values["priors"], *values["content"]]
        _check_names([entry.name for entry in named], values["files"], file)
        return Manifest(**values)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {error}): prepare again"
        ) from error


def is_data_set(folder: Path) -> bool:
    """Returns whether `prepare` wrote the folder. Its files may have been damaged since then."""
    # Other programs also write files named `manifest.json`, so the keys in the file decide.
    try:
        values = parse_json((folder / FILE).read_bytes(), FILE, remedy=_REMEDY)
    except (OSError, UserError):
        return False
    return {"schema_version", "content_sha256"} <= values.keys()


def verify(folder: Path) -> None:
    """Reads all files and raises UserError if a checksum differs from the manifest."""
    # `read_manifest` finds missing and truncated files before any file is read.
    manifest = read_manifest(folder)
    for info in manifest.files:
        if info.path in manifest.absent:
            continue
        if sha256(folder / info.path) != info.sha256:
            raise UserError(
                f"{folder / info.path} does not match its checksum: prepare the data set again"
            )


def describe(folder: Path, paths: list[Path]) -> tuple[list[FileInfo], str]:
    """Returns the sizes and checksums of the files `paths` in `folder`, and one hash of all."""
    # The paths are sorted because the hash depends on their order.
    infos = [describe_file(path, str(path.relative_to(folder))) for path in sorted(paths)]
    return infos, hash_of(infos)


def describe_file(file: Path, path: str) -> FileInfo:
    """Returns the size and checksums of a file.

    Args:
        file: the file as it is now.
        path: the path of the file in the data set's folder, where it is or will be.
    """
    with readable(file, _REMEDY):
        footer = read_footer(file)
    return FileInfo(path, file.stat().st_size, sha256(file), footer.sha256)


def hash_of(files: Iterable[FileInfo]) -> str:
    """Returns one hash of all files except those in HELD.

    The rows in HELD keep the order of the raw files, so they may differ between logs that otherwise
    give the same data set.
    """
    lines = [f"{info.path} {info.sha256}\n" for info in files if not info.path.startswith(HELD)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_names(names: list[str], files: list[FileInfo], file: str) -> None:
    """Raises UserError if a name would lead out of the data set's folder."""
    # The names are not trusted, because somebody else may have written the data set.
    for name in names:
        check_name(name, f"{file}: the name")
    for info in files:
        check_path(info.path, f"{file}: the file")
