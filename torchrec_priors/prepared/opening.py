"""Finds the files of a prepared data set: in its folder, or in the cache of files from stores."""

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
    """The files of one data set.

    Attributes:
        manifest: the manifest as it was when the data set was opened.
        scratch: a local folder on whose disk there may be temporary files.
    """

    manifest: Manifest
    scratch: Path

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Local paths of files of the data set."""

    def renew(self, name: str) -> bool:
        """Fetches a file again if its local copy is damaged.

        Returns:
            Whether the file may be read again.
        """


def open_files(folder: Place) -> Files:
    """Opens a data set. Raises UserError if there is none."""
    return _RemoteFiles(folder) if isinstance(folder, Uri) else _LocalFiles(folder)


def manifest_in(store: Store) -> Manifest:
    """The manifest of a data set in a store.

    Raises:
        UserError: the folder has no manifest, or a damaged one.
    """
    try:
        content = store.read(FILE)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            reason = " ".join(str(error.__cause__).split())
            raise UserError(
                f"{store.option}: '{store.uri}' is not a prepared data set (no {FILE}: {reason}): "
                "run prepare first"
            ) from error
        raise

    # A checksum becomes a file name in the cache, so it must not lead elsewhere.
    manifest = parse_manifest(content, str(store.uri / FILE))
    for info in manifest.files:
        if re.fullmatch("[0-9a-f]{64}", info.sha256) is None:
            raise UserError(f"{store.uri / FILE}: '{info.sha256}' is not a checksum: prepare again")
    return manifest


def key_of(info: FileInfo) -> str:
    """The key of a file's entry in the cache."""
    return f"{info.sha256}.parquet"


class _LocalFiles:
    """The files of a data set in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.scratch = folder
        self.manifest = read_manifest(folder)

    def paths(self, names: Sequence[str]) -> list[Path]:
        return [self.scratch / name for name in names]

    def renew(self, name: str) -> bool:
        return False


class _RemoteFiles:
    """The files of a data set in a store.

    A file is fetched as a whole when it is first requested, not in parts: row groups are shuffled
    over all files, so a training reads all of them from its first steps on. Entries of the cache
    are named by the checksum of the file.
    """

    def __init__(self, uri: Uri) -> None:
        self._store = Store(uri, "--data")
        self.manifest = manifest_in(self._store)
        self._infos = {info.path: info for info in self.manifest.files}
        self._paths: dict[str, Path] = {}
        self.scratch = default_cache().subfolder("scratch")

    def paths(self, names: Sequence[str]) -> list[Path]:
        new = [name for name in names if name not in self._paths]
        if new:
            # All at once, since the cache fetches several files at the same time.
            files = self._fetched([self._info(name) for name in new])
            self._paths.update(zip(new, files, strict=True))
        return [self._paths[name] for name in names]

    def renew(self, name: str) -> bool:
        # An undamaged copy stays; another process may have replaced the damaged one already.
        info = self._info(name)
        cache = default_cache()
        if cache.drop(key_of(info), lambda copy: sha256(copy) != info.sha256):
            log.warning(
                "%s: the copy in the cache was damaged: it is fetched again", self._store.uri / name
            )
        (self._paths[name],) = self._fetched([info])
        return True

    def _info(self, name: str) -> FileInfo:
        """What the manifest says of a file."""
        if name not in self._infos:
            raise UserError(f"--data: '{self._store.uri}' lacks {name}: prepare it again")
        return self._infos[name]

    def _fetched(self, infos: list[FileInfo]) -> list[Path]:
        """Local paths of files, fetched if they are not in the cache."""
        # `missing` is only for the progress: the cache decides again what it fetches.
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
        """Copies a file from the store to the local path `file`."""

        def check(copy: Path) -> None:
            # The size first, as it costs nothing.
            if copy.stat().st_size != info.bytes or sha256(copy) != info.sha256:
                raise DamagedError(
                    "the downloaded copy does not match its checksum: "
                    "the file is damaged in the store, or is being replaced"
                )

        self._store.get(info.path, file, check, moved)
