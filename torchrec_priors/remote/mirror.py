"""Mirrors a store's folder of raw files as a local folder of links to files in the cache."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from fsspec.callbacks import Callback

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import check_path, write_whole
from torchrec_priors.errors import UserError
from torchrec_priors.remote.cache import Wanted, default_cache
from torchrec_priors.remote.progress import Progress, Report
from torchrec_priors.remote.store import DamagedError, Listed, Store
from torchrec_priors.remote.uri import Uri


def mirror(uri: Uri, option: str, report: Report = lambda _: None) -> Path:
    """Creates a local folder with links to all files of a store's folder.

    Files that are not in the cache are fetched. They are not removed before this process ends. A
    file is identified by its URI, its size and its version in the store. If the store gives no
    version, the file is fetched again each time. A file that was already in the cache is compared
    with the checksum that was recorded when it was fetched. The same files always give the same
    folder, so that work on them can resume after a kill.

    Args:
        uri: the folder in the store.
        option: the option with which the URI was given, for messages.
        report: called with messages about the progress.

    Returns:
        The local folder.

    Raises:
        UserError: the folder has no files, or files change while they are fetched.
    """
    store = Store(uri, option)
    # Some stores also list folders, as empty files with a slash at the end.
    listed = {path: file for path, file in store.files().items() if path and not path.endswith("/")}
    if not listed:
        raise UserError(f"{option}: '{uri}' has no files: check the name")
    return _mirrored(store, listed, report)


def mirror_file(uri: Uri, name: str, option: str, report: Report = lambda _: None) -> Path:
    """Creates a link to one file of a store, as `mirror` does for all files of a folder.

    Args:
        uri: the folder in the store.
        name: the name of the file.
    """
    store = Store(uri, option)
    return _mirrored(store, {name: store.listed(name)}, report) / name


def _mirrored(store: Store, listed: Mapping[str, Listed], report: Report) -> Path:
    """Creates the local folder with links to these files of a store."""
    uri = store.uri
    option = store.option
    for path in listed:
        check_path(path, f"{option}: '{uri}' has a file that")

    # `missing` is used only for messages. The cache itself decides which files it fetches.
    cache = default_cache()
    keys = {path: _key(uri / path, file) for path, file in listed.items()}
    missing = {path: file for path, file in listed.items() if not cache.has(keys[path])}
    sums = cache.subfolder("sums")
    total = sum(file.bytes for file in missing.values())
    progress = Progress(f"fetching {uri}", len(missing), total, report)
    wanted = [
        Wanted(
            keys[path],
            file.bytes,
            partial(_fetch, store, path, file, progress.file(), sums / keys[path]),
            partial(_is_as_fetched, sums / keys[path]),
        )
        for path, file in listed.items()
    ]
    files = cache.fetch(wanted)

    # The name of the folder depends on all files and their versions, so its links never change.
    identity = hashlib.sha256(json.dumps([str(uri), keys]).encode()).hexdigest()[:32]
    folder = cache.subfolder("raw", identity, uri.name)
    for path, file in zip(listed, files, strict=True):
        _link(folder / path, file)
    return folder


def _is_as_fetched(recorded: Path, file: Path) -> bool:
    """Whether a file has the checksum that was recorded when it was fetched."""
    return recorded.is_file() and recorded.read_bytes() == sha256(file).encode()


def _fetch(
    store: Store, path: str, listed: Listed, moved: Callback, recorded: Path, file: Path
) -> None:
    """Fetches a file, and records its checksum.

    Args:
        store: the store.
        path: the path of the file in the store.
        listed: the size of the file in the store.
        moved: counts the copied bytes.
        recorded: the file for the checksum.
        file: the local file to write.
    """

    def check(copy: Path) -> None:
        if copy.stat().st_size != listed.bytes:
            raise DamagedError(
                f"{copy.stat().st_size} of {listed.bytes} bytes arrived: "
                "the file was changed meanwhile; run this again"
            )

    store.get(path, file, check, moved)
    write_whole(recorded, sha256(file))


def _key(uri: Uri, file: Listed) -> str:
    """Returns the key of a file in the cache."""
    # Without a version, the time makes the key unique, so the file is fetched again.
    version = file.version or f"fetched {time.time_ns()}"
    return hashlib.sha256(f"{uri}\n{file.bytes}\n{version}".encode()).hexdigest()


def _link(link: Path, file: Path) -> None:
    """Creates a link to a file, unless the link exists."""
    link.parent.mkdir(parents=True, exist_ok=True)
    # The link is relative, so that the cache can be moved.
    target = Path(os.path.relpath(file, link.parent))
    try:
        link.symlink_to(target)
    except FileExistsError:
        assert link.readlink() == target, "the folder is named after its files"
