"""The folder for files of stores on this machine, shared by all its processes.

    files/<key>     whole files; a key identifies the content, so an entry is never stale
    leases/         one file a process, locked as long as it lives: the keys that it uses
    locks/<key>     held by the process that fetches the entry
    sums/<key>      checksums of raw files when they were fetched
    raw/, out/      folders of links to raw files, and data sets on their way to a store

TORCHREC_PRIORS_CACHE names the folder, TORCHREC_PRIORS_CACHE_SIZE limits `files`: the least
recently used files are removed first. What a living process uses is never removed, even beyond the
limit.
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
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.common.user_folders import cache_folder
from torchrec_priors.remote.progress import amount

log = logging.getLogger(__name__)

FOLDER = "TORCHREC_PRIORS_CACHE"
SIZE = "TORCHREC_PRIORS_CACHE_SIZE"
# Files that are fetched at the same time.
_AT_ONCE = 8
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Wanted:
    """A file that is to be in the cache.

    Attributes:
        key: letters and digits, and an ending; the same key means the same bytes.
        bytes: size of the file.
        fetch: writes it to a path of the cache, complete and checked, or raises.
        is_as_fetched: whether an existing entry is undamaged. A process calls it once for an entry;
            a damaged one is fetched again. None if the reader checks it.
    """

    key: str
    bytes: int
    fetch: Callable[[Path], None]
    is_as_fetched: Callable[[Path], bool] | None = None


class Cache:
    """One process's view of the folder.

    Args:
        most: the most bytes of files that are kept; None for no limit.

    Raises:
        UserError: from every call, a folder that cannot be written.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.folder = folder.absolute()
        self.most = most
        self._files = self.folder / "files"
        self._leases = self.folder / "leases"
        self._locks = self.folder / "locks"

        # This process's lease: its file descriptor, -1 before there is one, and the keys in it.
        self._mutex = Lock()
        self._lease = -1
        self._held = set[str]()

        # Keys of entries that were checked and found undamaged.
        self._good = set[str]()

    def fetch(self, wanted: Sequence[Wanted]) -> list[Path]:
        """The paths of files, which are fetched if they are not in the cache.

        Each is fetched by one process of the machine, once. They stay as long as this process
        lives.
        """
        with self.writable():
            # Leased first: from here on no process removes them.
            self._lend(file.key for file in wanted)
            self._drop_damaged([file for file in wanted if self._is_whole(file)])

            missing = [file for file in wanted if not self._is_whole(file)]
            if missing:
                self._make_room(sum(file.bytes for file in missing))
                self._fetch_all(missing)

            # The time of access orders entries when room is needed; file systems may not record it.
            paths = [self._path(file) for file in wanted]
            for path in paths:
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            return paths

    def has(self, key: str) -> bool:
        """Whether the entry exists now; it may be removed before it is used."""
        return (self._files / key).exists()

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
        """Removes an entry if it is damaged, even while others read it.

        Returns:
            Whether the entry does not exist now.
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
        """A folder in the cache for files other than entries; it is created."""
        folder = self.folder.joinpath(*parts)
        with self.writable():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Lets one process at a time do what has this name."""
        with self.writable():
            self._locks.mkdir(parents=True, exist_ok=True)
        with locked(self._locks / name):
            yield

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Raises an error of one line if the block cannot write to the cache."""
        try:
            yield
        except OSError as error:
            unwritable = cannot(f"the cache '{self.folder}' cannot be written", error)
            raise type(unwritable)(f"{unwritable}, or give {FOLDER} another folder") from error

    def _path(self, wanted: Wanted) -> Path:
        """The path of an entry."""
        return self._files / wanted.key

    def _drop_damaged(self, files: Sequence[Wanted]) -> None:
        """Removes entries that are not as they were fetched."""
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

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="check") as pool:
            # `list` waits for all of them, and raises their errors.
            list(pool.map(check, unchecked))
        self._good.update(file.key for file in unchecked)

    def _is_whole(self, wanted: Wanted) -> bool:
        """Whether the entry exists in its full length."""
        # A power failure may have left a shorter one.
        status = _status(self._path(wanted))
        return status is not None and status.st_size == wanted.bytes

    def _fetch_all(self, missing: Sequence[Wanted]) -> None:
        """Fetches entries, several at the same time."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._fetch, file) for file in missing]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                # Files that were not begun need not be fetched after an error.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch(self, wanted: Wanted) -> None:
        """Fetches an entry, unless another process has fetched it meanwhile."""
        with locked(self._locks / wanted.key):
            if self._is_whole(wanted):
                return
            with new_file(self._path(wanted)) as partial:
                wanted.fetch(partial)

    def _lend(self, keys: Iterator[str] | Sequence[str]) -> None:
        """Leases entries, existing or not: from here on no process removes them."""
        with self._mutex:
            new = [key for key in keys if key not in self._held]
            if self._lease < 0:
                self._open_lease()
            # Not while another process decides what it removes.
            with self._locked():
                os.write(self._lease, "".join(f"{key}\n" for key in new).encode())
            self._held.update(new)

    def _open_lease(self) -> None:
        """Creates this process's lease, and removes what killed processes left."""
        for folder in (self._files, self._leases, self._locks):
            folder.mkdir(parents=True, exist_ok=True)

        with self._locked():
            lent = self._lent()
            for partial in self._files.glob(f".*{_PARTIAL}"):
                # No living process fetches it: a kill left it.
                if _key_of(partial) not in lent:
                    partial.unlink(missing_ok=True)

            self._lease, _ = tempfile.mkstemp(dir=self._leases, prefix=f"{os.getpid()}-")
            lock_descriptor(self._lease)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Locks the cache, so that no process leases an entry while another removes entries."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_descriptor(handle)
            yield
        finally:
            os.close(handle)

    def _lent(self) -> set[str]:
        """The keys that living processes use. Leases of processes that have ended are removed."""
        keys = set()
        for lease in self._leases.iterdir():
            with lease.open("rb+") as opened:
                # A process holds the lock on its lease as long as it lives.
                if lock_descriptor(opened.fileno(), blocking=False):
                    lease.unlink()
                else:
                    keys.update(opened.read().decode().split())
        return keys

    def _make_room(self, coming: int) -> None:
        """Removes the least recently used entries, so that `coming` more bytes fit."""
        if self.most is None:
            return

        with self._locked():
            lent = self._lent()
            entries = []
            for file in self._files.iterdir():
                status = _status(file)
                if status is not None:
                    entries.append((file, status))

            total = coming + sum(status.st_size for _, status in entries)
            for file, status in sorted(entries, key=lambda entry: entry[1].st_atime_ns):
                if total <= self.most:
                    return
                if _key_of(file) not in lent:
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
    """The user's cache.

    Raises:
        UserError: the size is not an amount.
    """
    folder = Path(os.environ.get(FOLDER) or cache_folder())
    size = os.environ.get(SIZE)
    most = None if size is None else in_bytes(size, SIZE)
    return Cache(folder, most)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Lets one thread of all processes of the machine in; the lock's file is removed afterwards."""
    # The lock counts only if the file at the path is still the locked one: the process that held it
    # before has removed its file, and another may have created a new one.
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_descriptor(handle)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                break
        except FileNotFoundError:
            pass
        os.close(handle)

    try:
        yield
    finally:
        # Removed while it is locked, so that the next process sees that it has the wrong file.
        file.unlink()
        os.close(handle)


def _key_of(file: Path) -> str:
    """The key of an entry, or of a partial file of one."""
    return file.name.removeprefix(".").removesuffix(_PARTIAL)


def _status(file: Path) -> os.stat_result | None:
    """The status of a file; None if it does not exist."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None
