"""Mirrors a store's folder as a local folder of links to files in the cache."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fsspec.callbacks import Callback

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import check_path, write_whole
from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.errors import UserError
from torchrec_priors.remote.cache import AT_ONCE, Wanted, default_cache
from torchrec_priors.remote.progress import Progress, Report
from torchrec_priors.remote.store import DamagedError, Listed, Store
from torchrec_priors.remote.uri import Uri


def mirror(
    uri: Uri,
    option: str,
    report: Report = lambda _: None,
    chosen: Callable[[str], bool] = lambda _: True,
) -> Path:
    """Creates a local folder with links to the files of a store's folder.

    Files that are not in the cache are fetched. They are not removed before this process ends. A
    file is identified by its URI, its size and its version in the store. If the store gives no
    version, the file is fetched again each time, and identified by its content. A file that was
    already in the cache is compared with the checksum that was recorded when it was fetched. The
    same files always give the same folder, so that work on them can resume after a kill.

    Args:
        uri: the folder in the store.
        option: the option with which the URI was given, for messages.
        report: called with messages about the progress.
        chosen: whether the file at a path in the folder is wanted; all files by default.

    Returns:
        The local folder.

    Raises:
        UserError: the folder has no files, or files change while they are fetched.
    """
    store = Store(uri, option)
    # Some stores also list folders, as empty files with a slash at the end.
    listed = {
        path: file
        for path, file in store.files().items()
        if path and not path.endswith("/") and chosen(path)
    }
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
    known = {path: _key(uri / path, file) for path, file in listed.items()}
    unversioned = {path: file for path, file in listed.items() if known[path] is None}
    missing = [file for path, file in listed.items() if not cache.has(known[path])]
    total = sum(file.bytes for file in missing)
    progress = Progress(f"fetching {uri}", len(missing), total, report)

    sums = cache.subfolder("sums")
    fetched = _fetch_unversioned(store, unversioned, progress, sums)
    keys = {path: key or fetched[path] for path, key in known.items()}
    wanted = [
        Wanted(
            key,
            listed[path].bytes,
            partial(_fetch, store, path, listed[path], progress.file(), sums / key),
            partial(_is_as_fetched, sums / key),
        )
        for path, key in keys.items()
    ]
    files = cache.fetch(wanted)

    # The name of the folder depends on all files and their versions, so its links never change.
    identity = hashlib.sha256(json.dumps([str(uri), keys]).encode()).hexdigest()[:32]
    folder = cache.subfolder("raw", identity, uri.name)
    for path, file in zip(listed, files, strict=True):
        _link(folder / path, file)
    return folder


def _fetch_unversioned(
    store: Store, listed: Mapping[str, Listed], progress: Progress, sums: Path
) -> dict[str, str]:
    """Fetches files whose versions are unknown into the cache.

    Args:
        store: the store.
        listed: the files, by path in the store.
        progress: counts the copied bytes.
        sums: the folder for checksums.

    Returns:
        The keys of the files in the cache, which their contents decide.
    """
    if not listed:
        return {}
    cache = default_cache()
    with cache.writable(), scratch_folder(cache.subfolder("scratch"), "mirror") as folder:

        def fetch(number: int, path: str) -> str:
            file = folder / f"{number}.fetched"
            recorded = folder / f"{number}.sum"
            _fetch(store, path, listed[path], progress.file(), recorded, file)
            key = _key_of_content(recorded.read_text(encoding="utf8"))
            recorded.replace(sums / key)
            cache.adopt(file, key)
            return key

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
            return dict(zip(listed, pool.map(fetch, range(len(listed)), listed), strict=True))


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


def _key(uri: Uri, file: Listed) -> str | None:
    """Returns the key of a file in the cache; None if the store gives no version of it."""
    if file.version is None:
        return None
    return hashlib.sha256(f"{uri}\n{file.bytes}\n{file.version}".encode()).hexdigest()


def _key_of_content(checksum: str) -> str:
    """Returns the key of a file with this checksum."""
    return hashlib.sha256(f"content\n{checksum}".encode()).hexdigest()


def _link(link: Path, file: Path) -> None:
    """Creates a link to a file, unless the link exists."""
    link.parent.mkdir(parents=True, exist_ok=True)
    # The link is relative, so that the cache can be moved.
    target = Path(os.path.relpath(file, link.parent))
    try:
        link.symlink_to(target)
    except FileExistsError:
        assert link.readlink() == target, "the folder is named after its files"
