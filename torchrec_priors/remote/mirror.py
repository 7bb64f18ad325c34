"""A store's folder of raw files as a local folder: links to entries of the cache."""

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
    """All files of the folder, fetched where they are not in the cache; they stay as long as this process lives.

    A file is known by its URI, size, and what the store says of its version; where it says nothing, it is fetched anew.
    One that was there is compared as a whole with its checksum, which was noted when it came: whoever reads raw files
    reads all of them.
    The same files make the same folder, so that work on them can go on after a kill.

    Raises:
        UserError: nothing is there, or files change while they are fetched.
    """
    store = Store(uri, option)
    listed = {path: file for path, file in store.files().items() if path and not path.endswith("/")}
    if not listed:
        raise UserError(f"{option}: '{uri}' holds no files: look at the name")
    for path in listed:
        check_path(path, f"{option}: '{uri}' holds a file that")
    cache = default_cache()
    keys = {path: _key(uri / path, file) for path, file in listed.items()}
    missing = {path: file for path, file in listed.items() if not cache.has(keys[path])}
    sums = cache.subfolder("sums")
    progress = Progress(
        f"fetching {uri}", len(missing), sum(file.bytes for file in missing.values()), report
    )
    wanted = [
        Wanted(
            keys[path],
            file.bytes,
            partial(_fetch, store, path, file, progress.file(), sums / keys[path]),
            partial(_is_as_fetched, sums / keys[path]),
        )
        for path, file in listed.items()
    ]
    found = cache.fetch(wanted)
    whole = hashlib.sha256(json.dumps([str(uri), keys]).encode()).hexdigest()[:32]
    folder = cache.subfolder("raw", whole, uri.name)
    for path, file in zip(listed, found, strict=True):
        _link(folder / path, file)
    return folder


def _is_as_fetched(noted: Path, file: Path) -> bool:
    return noted.is_file() and noted.read_bytes() == sha256(file).encode()


def _fetch(
    store: Store, path: str, listed: Listed, moved: Callback, noted: Path, file: Path
) -> None:
    def check(copy: Path) -> None:
        if copy.stat().st_size != listed.bytes:
            raise DamagedError(
                f"{copy.stat().st_size} bytes came of {listed.bytes}: it was changed meanwhile; run this again"
            )

    store.get(path, file, check, moved)
    write_whole(noted, sha256(file))


def _key(uri: Uri, file: Listed) -> str:
    version = file.version or f"fetched {time.time_ns()}"
    return hashlib.sha256(f"{uri}\n{file.bytes}\n{version}".encode()).hexdigest()


def _link(place: Path, file: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.relpath(file, place.parent))  # so that the cache can be moved
    try:
        place.symlink_to(target)
    except FileExistsError:
        assert place.readlink() == target, "the folder is named after its files"
