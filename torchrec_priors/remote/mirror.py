"""Makes a store's folder of raw files a local folder of links to entries of the cache."""

import hashlib
import json
import os
import time
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
    """A local folder with all files of a store's folder.

    Files are fetched if they are not in the cache; they stay there as long as this process lives. A
    file is identified by its URI, its size, and the version that the store gives; if the store
    gives none, it is fetched again. A file that was in the cache is compared as a whole with the
    checksum that was recorded when it was fetched, since raw files are read as a whole anyway. The
    same files make the same folder, so work on them can resume after a kill.

    Args:
        option: the option that gives the URI, for messages.

    Raises:
        UserError: the folder has no files, or files change while they are fetched.
    """
    store = Store(uri, option)
    # Some stores list folders, too, as empty files.
    listed = {path: file for path, file in store.files().items() if path and not path.endswith("/")}
    if not listed:
        raise UserError(f"{option}: '{uri}' has no files: check the name")
    for path in listed:
        check_path(path, f"{option}: '{uri}' has a file that")

    # `missing` is only for the progress: the cache decides what it fetches.
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

    # The folder's name depends on all files and their versions, so its links never change.
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
    """Fetches a file, and records its checksum in the file `recorded`."""

    def check(copy: Path) -> None:
        if copy.stat().st_size != listed.bytes:
            raise DamagedError(
                f"{copy.stat().st_size} of {listed.bytes} bytes arrived: "
                "the file was changed meanwhile; run this again"
            )

    store.get(path, file, check, moved)
    write_whole(recorded, sha256(file))


def _key(uri: Uri, file: Listed) -> str:
    """The key of a file in the cache."""
    # Without a version, the time makes a new key each time.
    version = file.version or f"fetched {time.time_ns()}"
    return hashlib.sha256(f"{uri}\n{file.bytes}\n{version}".encode()).hexdigest()


def _link(link: Path, file: Path) -> None:
    """Creates a link to a file, if it does not exist."""
    link.parent.mkdir(parents=True, exist_ok=True)
    # Relative, so the cache can be moved.
    target = Path(os.path.relpath(file, link.parent))
    try:
        link.symlink_to(target)
    except FileExistsError:
        assert link.readlink() == target, "the folder is named after its files"
