"""Finds the files of a prepared data set in a local folder, or in the cache of a store's files."""

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
        scratch: a local folder for temporary files.
    """

    manifest: Manifest
    scratch: Path

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Returns the local paths of files of the data set."""

    def renew(self, name: str) -> bool:
        """Fetches a file from the store again if the local copy is damaged.

        Returns:
            Whether it makes sense to read the file again. This is False for a local data set.
        """


def open_files(folder: Place) -> Files:
    """Opens the data set in `folder`. Raises UserError if the folder contains no data set."""
    return _RemoteFiles(folder) if isinstance(folder, Uri) else _LocalFiles(folder)


def manifest_in(store: Store) -> Manifest:
    """Reads the manifest of a data set in a store.

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

    # A checksum becomes a file name in the cache, so it must consist of hexadecimal digits only.
    manifest = parse_manifest(content, str(store.uri / FILE))
    for info in manifest.files:
        if re.fullmatch("[0-9a-f]{64}", info.sha256) is None:
            raise UserError(f"{store.uri / FILE}: '{info.sha256}' is not a checksum: prepare again")
    return manifest


def key_of(info: FileInfo) -> str:
    """Returns the key of a file's entry in the cache."""
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

    A whole file is fetched when it is first requested. Fetching parts would not help, because
    training reads row groups in random order and soon needs parts of all files. The name of an
    entry in the cache is the checksum of the file.
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
            # All files are requested in one call, because the cache then fetches several at a time.
            files = self._fetched([self._info(name) for name in new])
            self._paths.update(zip(new, files, strict=True))
        return [self._paths[name] for name in names]

    def renew(self, name: str) -> bool:
        # A copy that is not damaged is kept, because another process may already have replaced the
        # damaged copy.
        info = self._info(name)
        cache = default_cache()
        if cache.drop(key_of(info), lambda copy: sha256(copy) != info.sha256):
            log.warning(
                "%s: the copy in the cache was damaged: it is fetched again", self._store.uri / name
            )
        (self._paths[name],) = self._fetched([info])
        return True

    def _info(self, name: str) -> FileInfo:
        """Returns the manifest's entry of a file."""
        if name not in self._infos:
            raise UserError(f"--data: '{self._store.uri}' lacks {name}: prepare it again")
        return self._infos[name]

    def _fetched(self, infos: list[FileInfo]) -> list[Path]:
        """Returns the local paths of files. Files that are not in the cache are fetched."""
        # `missing` is only used to show the progress. The cache itself decides what to fetch.
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
            # The size is compared first, because this takes no time.
            if copy.stat().st_size != info.bytes or sha256(copy) != info.sha256:
                raise DamagedError(
                    "the downloaded copy does not match its checksum: "
                    "the file is damaged in the store, or is being replaced"
                )

        self._store.get(info.path, file, check, moved)
