"""The folder in which files of stores are kept on this machine, shared by all its processes.

    files/<key>     whole files; a key says what is in it, so that an entry is never stale
    leases/         one file a process, locked as long as it lives: the keys that it uses
    locks/<key>     held by who fetches the entry
    sums/<key>      checksums of raw files, as they came
    raw/, out/      folders of links to raw files, and data sets on their way to a store

TORCHREC_PRIORS_CACHE names the folder, TORCHREC_PRIORS_CACHE_SIZE bounds `files`: what was not used for longest is
removed first, and never what a living process uses, even beyond the bound.
"""

import fcntl
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

from torchrec_priors.common.amounts import in_bytes
from torchrec_priors.common.files import new_file
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.common.user_folders import cache_folder
from torchrec_priors.remote.progress import amount

log = logging.getLogger(__name__)

FOLDER = "TORCHREC_PRIORS_CACHE"
SIZE = "TORCHREC_PRIORS_CACHE_SIZE"
_AT_ONCE = 8  # files that are fetched at the same time
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Wanted:
    """A file that is to be in the cache.

    Attributes:
        key: of letters and digits, and an ending; the same key, the same bytes.
        fetch: writes it to a path of the cache's, whole and checked, or raises.
        is_as_fetched: whether an entry that is there already is undamaged; asked once by a process, and what is
            damaged is fetched again. None where the reader finds out by itself.
    """

    key: str
    bytes: int
    fetch: Callable[[Path], None]
    is_as_fetched: Callable[[Path], bool] | None = None


class Cache:
    """One process's view of the folder.

    Args:
        most: bytes of whole files that are kept; None for any number.

    Raises:
        UserError: from every call, a folder that cannot be written.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.folder = folder.absolute()
        self.most = most
        self._files, self._leases, self._locks = (
            self.folder / name for name in ("files", "leases", "locks")
        )
        self._mutex = Lock()
        self._lease = -1
        self._held = set[str]()
        self._good = set[str]()  # entries that were found undamaged

    def fetch(self, wanted: Sequence[Wanted]) -> list[Path]:
        """Where the files are, fetched if they were not there: each by one process of the machine, once.

        They stay there as long as this process lives.
        """
        with self.writable():
            self._lend(file.key for file in wanted)
            self._drop_damaged([file for file in wanted if self._is_whole(file)])
            missing = [file for file in wanted if not self._is_whole(file)]
            if missing:
                self._make_room(sum(file.bytes for file in missing))
                with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
                    waiting = [pool.submit(self._fetch, file) for file in missing]
                    try:
                        for done in waiting:
                            done.result()
                    except BaseException:
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise
            found = [self._path(file) for file in wanted]
            for path in found:
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            return found

    def has(self, key: str) -> bool:
        """Whether it is there now; it may be gone when it is wanted."""
        return (self._files / key).exists()

    def adopt(self, file: Path, key: str) -> None:
        """Makes an entry of a file of this machine."""
        with self.writable():
            self._lend([key])
            place = self._files / key
            with locked(self._locks / key):
                if not place.exists():
                    self._make_room(file.stat().st_size)
                    file.replace(place)

    def drop(self, key: str, is_bad: Callable[[Path], bool]) -> bool:
        """Removes an entry that is damaged, under everyone who reads it; whether it is gone, or was."""
        place = self._files / key
        with self.writable(), locked(self._locks / key):
            if not place.exists():
                return True
            if not is_bad(place):
                return False
            place.unlink()
            return True

    def subfolder(self, *parts: str) -> Path:
        """A folder in the cache for what is no entry."""
        folder = self.folder.joinpath(*parts)
        with self.writable():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _path(self, wanted: Wanted) -> Path:
        return self._files / wanted.key

    def _drop_damaged(self, files: Sequence[Wanted]) -> None:
        """Removes those that are not as they were fetched."""
        asked = [
            file for file in files if file.is_as_fetched is not None and file.key not in self._good
        ]
        if not asked:
            return

        def look(file: Wanted) -> None:
            is_as_fetched = file.is_as_fetched
            assert is_as_fetched is not None
            if self.drop(file.key, lambda path: not is_as_fetched(path)):
                log.warning("'%s' in the cache is damaged: it is fetched again", file.key)

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="check") as pool:
            list(pool.map(look, asked))
        self._good.update(file.key for file in asked)

    def _is_whole(self, wanted: Wanted) -> bool:
        """A machine that lost its power may have left a shorter one."""
        status = _status(self._path(wanted))
        return status is not None and status.st_size == wanted.bytes

    def _fetch(self, wanted: Wanted) -> None:
        place = self._path(wanted)
        with locked(self._locks / wanted.key):
            if self._is_whole(wanted):
                return
            with new_file(place) as partial:
                wanted.fetch(partial)

    def _lend(self, keys: Iterator[str] | Sequence[str]) -> None:
        """From here on nobody removes these entries, whether they are there yet or not."""
        with self._mutex:
            new = [key for key in keys if key not in self._held]
            if self._lease < 0:
                self._open_lease()
            with self._shared(fcntl.LOCK_SH):
                os.write(self._lease, "".join(f"{key}\n" for key in new).encode())
            self._held.update(new)

    def _open_lease(self) -> None:
        for folder in (self._files, self._leases, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        with self._shared(fcntl.LOCK_EX):
            lent = self._lent()  # removes those of processes that have ended
            for partial in self._files.glob(f".*{_PARTIAL}"):
                if _key_of(partial) not in lent:  # left by a kill
                    partial.unlink(missing_ok=True)
            self._lease, _ = tempfile.mkstemp(dir=self._leases, prefix=f"{os.getpid()}-")
            fcntl.flock(self._lease, fcntl.LOCK_EX)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """One at a time does what has this name."""
        with self.writable():
            self._locks.mkdir(parents=True, exist_ok=True)
        with locked(self._locks / name):
            yield

    @contextmanager
    def _shared(self, how: int) -> Iterator[None]:
        """The lock between those who begin to use entries (LOCK_SH) and who removes some (LOCK_EX)."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    def _lent(self) -> set[str]:
        """Keys that living processes use."""
        keys = set()
        for lease in self._leases.iterdir():
            with lease.open("rb+") as opened:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    lease.unlink()
                except BlockingIOError:
                    keys.update(opened.read().decode().split())
        return keys

    def _make_room(self, coming: int) -> None:
        """Removes what was not used for longest, until so many bytes fit within the bound."""
        if self.most is None:
            return
        with self._shared(fcntl.LOCK_EX):
            lent = self._lent()
            entries = [
                (file, status)
                for file in self._files.iterdir()
                if (status := _status(file)) is not None
            ]
            total = coming + sum(status.st_size for _, status in entries)
            for file, status in sorted(entries, key=lambda entry: entry[1].st_atime_ns):
                if total <= self.most:
                    return
                if _key_of(file) not in lent:
                    file.unlink(missing_ok=True)
                    total -= status.st_size
            if total > self.most:
                over = f"{amount(total)} where {amount(self.most)} are allowed"
                log.info("the cache '%s' holds %s (%s), all of it in use", self.folder, over, SIZE)

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Raises the one line where the block cannot write to the cache."""
        try:
            yield
        except OSError as error:
            refused = cannot(f"the cache '{self.folder}' cannot be written", error)
            raise type(refused)(f"{refused}, or give {FOLDER} another folder") from error


@cache
def default_cache() -> Cache:
    """The user's.

    Raises:
        UserError: a size that is none.
    """
    most = os.environ.get(SIZE)
    folder = Path(os.environ.get(FOLDER) or cache_folder())
    return Cache(folder, None if most is None else in_bytes(most, SIZE))


def _key_of(file: Path) -> str:
    """Of an entry, be it still on its way."""
    return file.name.removeprefix(".").removesuffix(_PARTIAL)


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One at a time, of all processes and threads of the machine; the lock's file is gone afterwards."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                break
        except FileNotFoundError:
            pass  # who held it removed it
        os.close(handle)
    try:
        yield
    finally:
        file.unlink()
        os.close(handle)
