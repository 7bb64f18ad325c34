"""A local cache of files from stores, which all processes of this machine share.

    files/<key>     complete files (the entries); a key identifies the content of a file, so an
                    entry never becomes outdated
    leases/         for each living process, a locked file with the keys of the entries that it uses
    locks/<key>     a file that is locked by the process that fetches the entry
    sums/<key>      the checksum of a raw file when it was fetched
    raw/            folders of links to raw files
    out/            data sets that are being written to a store

The environment variable TORCHREC_PRIORS_CACHE names the folder. TORCHREC_PRIORS_CACHE_SIZE limits
the size of `files`: the least recently used files are removed first. Files that a living process
uses are never removed, even if they exceed the limit.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

from filelock import lock_descriptor

from torchrec_priors.common.amounts import in_bytes
from torchrec_priors.common.files import new_file
from torchrec_priors.common.lock_file import lock_file
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.common.user_folders import cache_folder
from torchrec_priors.remote.progress import amount

log = logging.getLogger(__name__)

FOLDER = "TORCHREC_PRIORS_CACHE"
SIZE = "TORCHREC_PRIORS_CACHE_SIZE"
AT_ONCE = 8  # files that are fetched at the same time
_PARTIAL = ".partial"  # the ending of a file that is being fetched


@dataclass(frozen=True)
class Wanted:
    """A file that a process needs.

    Attributes:
        key: the key of its entry: letters and digits, and an ending. Files with the same key have
            the same content.
        bytes: the size of the file.
        fetch: writes the file to a path, complete and checked, or raises an error.
        is_as_fetched: whether an existing entry is undamaged. A process calls it once for each
            entry; a damaged entry is fetched again. None if the reader of the file checks it.
    """

    key: str
    bytes: int
    fetch: Callable[[Path], None]
    is_as_fetched: Callable[[Path], bool] | None = None


class Cache:
    """The cache, as used by one process.

    Args:
        folder: the folder of the cache.
        most: the limit for the size of all files, in bytes; None for no limit.

    Raises:
        UserError: the folder cannot be written. Every method may raise it.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.folder = folder.absolute()
        self.most = most
        self._files = self.folder / "files"
        self._leases = self.folder / "leases"
        self._locks = self.folder / "locks"

        # The lease of this process: its file descriptor (-1 before it exists), and its keys.
        self._mutex = Lock()
        self._lease = -1
        self._held = set[str]()

        # Keys of entries that were checked and found undamaged.
        self._good = set[str]()

    def fetch(self, wanted: Sequence[Wanted]) -> list[Path]:
        """Returns the paths of files in the cache; files that are not there are fetched.

        If several processes need a file, only one of them fetches it. The files are not removed
        before this process ends.
        """
        with self.writable():
            # The files are leased first, so that no process removes them meanwhile.
            self._lend(file.key for file in wanted)
            self._drop_damaged([file for file in wanted if self._is_whole(file)])

            missing = [file for file in wanted if not self._is_whole(file)]
            if missing:
                self._make_room(sum(file.bytes for file in missing))
                self._fetch_all(missing)

            # The access time decides which entries are removed first. It is set here because the
            # file system may not record it.
            paths = [self._path(file) for file in wanted]
            for path in paths:
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            return paths

    def has(self, key: str | None) -> bool:
        """Whether an entry exists at present; another process may remove it at any time.

        Args:
            key: the key of the entry; None if it is unknown, so that no entry is found.
        """
        return key is not None and (self._files / key).exists()

    def adopt(self, file: Path, key: str) -> None:
        """Moves a local file into the cache as an entry."""
        with self.writable():
            self._lend([key])
            entry = self._files / key
            with locked(self._locks / key):
                if not entry.exists():
                    self._make_room(file.stat().st_size)
                    file.replace(entry)

    def drop(self, key: str, is_bad: Callable[[Path], bool]) -> bool:
        """Removes an entry if it is damaged, even if other processes are reading it.

        Args:
            key: the key of the entry.
            is_bad: whether the file is damaged.

        Returns:
            True if the entry does not exist any more.
        """
        entry = self._files / key
        with self.writable(), locked(self._locks / key):
            if not entry.exists():
                return True
            if not is_bad(entry):
                return False
            entry.unlink()
            return True

    def subfolder(self, *parts: str) -> Path:
        """Creates a folder in the cache for files that are not entries, and returns its path."""
        folder = self.folder.joinpath(*parts)
        with self.writable():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Lets only one process at a time execute a block with this name."""
        with self.writable():
            self._locks.mkdir(parents=True, exist_ok=True)
        with locked(self._locks / name):
            yield

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Turns an error of the file system within the block into a message about the cache."""
        try:
            yield
        except OSError as error:
            unwritable = cannot(f"the cache '{self.folder}' cannot be written", error)
            raise type(unwritable)(f"{unwritable}, or give {FOLDER} another folder") from error

    def _path(self, wanted: Wanted) -> Path:
        """Returns the path of an entry."""
        return self._files / wanted.key

    def _drop_damaged(self, files: Sequence[Wanted]) -> None:
        """Checks entries, which must exist, and removes those that are damaged."""
        unchecked = [
            file for file in files if file.is_as_fetched is not None and file.key not in self._good
        ]
        if not unchecked:
            return

        def check(file: Wanted) -> None:
            is_as_fetched = file.is_as_fetched
            assert is_as_fetched is not None
            if self.drop(file.key, lambda path: not is_as_fetched(path)):
                log.warning("'%s' in the cache is damaged: it is fetched again", file.key)

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="check") as pool:
            # `list` waits for all checks, and raises their errors.
            list(pool.map(check, unchecked))
        self._good.update(file.key for file in unchecked)

    def _is_whole(self, wanted: Wanted) -> bool:
        """Whether the entry exists and has the right size."""
        # A power failure may have left a shorter file.
        status = _status(self._path(wanted))
        return status is not None and status.st_size == wanted.bytes

    def _fetch_all(self, missing: Sequence[Wanted]) -> None:
        """Fetches entries, several at the same time."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._fetch, file) for file in missing]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                # After an error, files that are still waiting are not fetched.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch(self, wanted: Wanted) -> None:
        """Fetches an entry, unless another process has done so in the meantime."""
        with locked(self._locks / wanted.key):
            if self._is_whole(wanted):
                return
            with new_file(self._path(wanted)) as partial:
                wanted.fetch(partial)

    def _lend(self, keys: Iterator[str] | Sequence[str]) -> None:
        """Leases entries, which need not exist yet. No process removes leased entries."""
        with self._mutex:
            new = [key for key in keys if key not in self._held]
            if self._lease < 0:
                self._open_lease()
            # The lock prevents another process from removing these entries at the same time.
            with self._locked():
                os.write(self._lease, "".join(f"{key}\n" for key in new).encode())
            self._held.update(new)

    def _open_lease(self) -> None:
        """Creates the lease of this process, and removes partial files of killed processes."""
        for folder in (self._files, self._leases, self._locks):
            folder.mkdir(parents=True, exist_ok=True)

        with self._locked():
            leased = self._leased()
            for partial in self._files.glob(f".*{_PARTIAL}"):
                # A partial file that no living process has leased is not being fetched any more.
                if _key_of(partial) not in leased:
                    partial.unlink(missing_ok=True)

            self._lease, _ = tempfile.mkstemp(dir=self._leases, prefix=f"{os.getpid()}-")
            lock_descriptor(self._lease)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Locks the cache, so that no process leases entries while another removes entries."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_descriptor(handle)
            yield
        finally:
            os.close(handle)

    def _leased(self) -> set[str]:
        """Returns the keys in the leases of living processes, and removes all other leases."""
        keys = set()
        for lease in self._leases.iterdir():
            with lease.open("rb+") as opened:
                # If the lease can be locked, its process has ended.
                if lock_descriptor(opened.fileno(), blocking=False):
                    lease.unlink()
                else:
                    keys.update(opened.read().decode().split())
        return keys

    def _make_room(self, coming: int) -> None:
        """Removes the least recently used entries until `coming` more bytes fit into the limit."""
        if self.most is None:
            return

        with self._locked():
            leased = self._leased()
            entries = []
            for file in self._files.iterdir():
                status = _status(file)
                if status is not None:
                    entries.append((file, status))

            total = coming + sum(status.st_size for _, status in entries)
            for file, status in sorted(entries, key=lambda entry: entry[1].st_atime_ns):
                if total <= self.most:
                    return
                if _key_of(file) not in leased:
                    file.unlink(missing_ok=True)
                    total -= status.st_size

            if total > self.most:
                log.info(
                    "the cache '%s' has %s, more than %s (%s): all of it is in use",
                    self.folder,
                    amount(total),
                    amount(self.most),
                    SIZE,
                )


@cache
def default_cache() -> Cache:
    """Returns the cache in the user's folder, or in the folder that the environment names.

    Raises:
        UserError: the size in the environment is not a number of bytes.
    """
    folder = Path(os.environ.get(FOLDER) or cache_folder())
    size = os.environ.get(SIZE)
    most = None if size is None else in_bytes(size, SIZE)
    return Cache(folder, most)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Lets only one thread of all processes on this machine execute the block at a time.

    Args:
        file: the file that is locked. It is created, and removed afterwards.
    """
    handle = lock_file(file)
    assert handle is not None, "it waits for the lock"
    try:
        yield
    finally:
        # The file is removed while it is locked. A process that waits for its lock then notices
        # that the file at this path is another one.
        file.unlink()
        os.close(handle)


def _key_of(file: Path) -> str:
    """Returns the key of an entry or of a partial file."""
    return file.name.removeprefix(".").removesuffix(_PARTIAL)


def _status(file: Path) -> os.stat_result | None:
    """Returns the status of a file; None if it does not exist."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None
