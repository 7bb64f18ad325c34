"""Where the files of a prepared data set are read: in its folder, or out of the cache of what a store holds."""

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from fsspec.callbacks import Callback

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.manifest import (
    FILE,
    FileInfo,
    Manifest,
    parse_manifest,
    read_manifest,
)
from torchrec_priors.remote.cache import Wanted, default_cache
from torchrec_priors.remote.progress import Progress
from torchrec_priors.remote.store import DamagedError, Store
from torchrec_priors.remote.uri import Place, Uri

log = logging.getLogger(__name__)


class Files(Protocol):
    """Of one data set.

    Attributes:
        manifest: as it was when the data set was opened.
        scratch: a local folder on whose disk there may be temporary files.
    """

    manifest: Manifest
    scratch: Path

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Local paths of files of the data set."""

    def renew(self, name: str) -> bool:
        """Fetches a file again if its copy on this machine is damaged; whether there is anything to read again."""


def open_files(folder: Place) -> Files:
    """Raises UserError where there is no data set."""
    return _RemoteFiles(folder) if isinstance(folder, Uri) else _LocalFiles(folder)


class _LocalFiles:
    def __init__(self, folder: Path) -> None:
        self.scratch = folder
        self.manifest = read_manifest(folder)

    def paths(self, names: Sequence[str]) -> list[Path]:
        return [self.scratch / name for name in names]

    def renew(self, name: str) -> bool:
        return False


class _RemoteFiles:
    """In a store. A file comes whole when it is first asked for; entries of the cache are named by its checksum.

    Not in parts, as a training reads all files from its first steps on: row groups are shuffled over all of them.
    """

    def __init__(self, uri: Uri) -> None:
        self._store = Store(uri, "--data")
        self.manifest = manifest_in(self._store)
        self._infos = {info.path: info for info in self.manifest.files}
        self._found: dict[str, Path] = {}
        self.scratch = default_cache().subfolder("scratch")

    def paths(self, names: Sequence[str]) -> list[Path]:
        new = [name for name in names if name not in self._found]
        if new:
            self._found.update(
                zip(new, self._fetched([self._info(name) for name in new]), strict=True)
            )
        return [self._found[name] for name in names]

    def renew(self, name: str) -> bool:
        info = self._info(name)
        cache = default_cache()
        if cache.drop(key_of(info), lambda copy: sha256(copy) != info.sha256):
            log.warning(
                "%s: the copy in the cache was damaged: it is fetched again", self._store.uri / name
            )
        (self._found[name],) = self._fetched([info])
        return True

    def _info(self, name: str) -> FileInfo:
        if name not in self._infos:
            raise UserError(f"--data: '{self._store.uri}' lacks {name}: prepare it again")
        return self._infos[name]

    def _fetched(self, infos: list[FileInfo]) -> list[Path]:
        cache = default_cache()
        missing = [info for info in infos if not cache.has(key_of(info))]
        total = sum(info.bytes for info in missing)
        progress = Progress(f"fetching {self._store.uri}", len(missing), total, log.info)
        return cache.fetch(
            [
                Wanted(key_of(info), info.bytes, partial(self._fetch, info, progress.file()))
                for info in infos
            ]
        )

    def _fetch(self, info: FileInfo, moved: Callback, file: Path) -> None:
        def check(copy: Path) -> None:
            if copy.stat().st_size != info.bytes or sha256(copy) != info.sha256:
                raise DamagedError(
                    "what came does not match its checksum: it is damaged there, or being replaced"
                )

        self._store.get(info.path, file, check, moved)


def manifest_in(store: Store) -> Manifest:
    """Raises UserError where the store's folder has none, or a damaged one."""
    try:
        content = store.read(FILE)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            said = " ".join(str(error.__cause__).split())
            raise UserError(
                f"{store.option}: '{store.uri}' is no prepared data set (no {FILE}: {said}): run prepare first"
            ) from error
        raise
    manifest = parse_manifest(content, str(store.uri / FILE))
    for info in manifest.files:
        if re.fullmatch("[0-9a-f]{64}", info.sha256) is None:
            raise UserError(f"{store.uri / FILE}: '{info.sha256}' is no checksum: prepare again")
    return manifest


def key_of(info: FileInfo) -> str:
    """Of its entry in the cache."""
    return f"{info.sha256}.parquet"
