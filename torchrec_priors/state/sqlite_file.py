"""The SQLite file of a store: its tables, its connections, and its errors as one line."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from torchrec_priors.common.files import check_replaceable, new_file
from torchrec_priors.common.lock_file import lock_file
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import UserError
from torchrec_priors.state.store import StoreGoneError

# Marks SQLite files that are stores of this project ("TRPu"), and the format of their tables.
_APPLICATION = 0x54525075
_FORMAT = 1

# For so long, a process waits for others that write. A commit takes a fraction of a second.
BUSY_S = 5.0
# After a checkpoint, the write-ahead log is cut to so many bytes.
_LOG_BYTES = 64 << 20

# `arrivals` numbers the events of a user. It orders those of equal times. The events of a user are
# next to each other in the file, in their order, so reading the newest ones reads few pages.
_TABLES = f"""
CREATE TABLE users (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    arrivals INTEGER NOT NULL,
    kept INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    forgotten INTEGER NOT NULL
);
CREATE TABLE events (
    user INTEGER NOT NULL,
    time INTEGER NOT NULL,
    arrival INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    item TEXT NOT NULL,
    event TEXT,
    PRIMARY KEY (user, time, arrival)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_id ON events (user, event_id);
CREATE TABLE checks (number INTEGER NOT NULL);
INSERT INTO checks VALUES (0);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
"""

# What an error of SQLite means for the user, by its primary code.
_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_READONLY: "cannot be written: get permission, or name a place that can be",
    sqlite3.SQLITE_PERM: "cannot be written: get permission, or name a place that can be",
    sqlite3.SQLITE_BUSY: f"another process has been writing for {BUSY_S:.0f} s: try again",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written: check it, and its free space",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its folder must exist and be writable",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore a copy, or move it away to start without events",
    sqlite3.SQLITE_NOTADB: "is damaged: restore a copy, or move it away to start without events",
    sqlite3.SQLITE_NOMEM: "there is not enough memory: free some",
}


class StoreFile:
    """A file with the tables of a store.

    Attributes:
        path: its absolute path.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it and its folder.

        Raises:
            UserError: it is not a store, or must not be read or written.
            StoreGoneError: it cannot be read or written now.
        """
        self.path = path.absolute()
        try:
            self._create()
            self._identity = _identity(self.path)
        except OSError as error:
            raise cannot(f"store of users' events: cannot use '{self.path}'", error) from error
        self._check_format()

    def connect(self) -> sqlite3.Connection:
        """Returns a new connection, which one thread at a time may use."""
        # Mode "rw" does not create a file, in case somebody has removed it.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        # FULL: a commit returns when the write-ahead log is on the disk. What is deleted is
        # overwritten with zeros, because users ask to be forgotten.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        return connection

    def check_in_place(self) -> None:
        """Raises StoreGoneError if the file was removed or replaced since it was opened.

        SQLite would continue with the removed file, and nobody would find what it stores.
        """
        try:
            in_place = _identity(self.path) == self._identity
        except OSError:
            in_place = False
        if not in_place:
            raise StoreGoneError(
                f"'{self.path}' was removed or replaced while it was used: "
                "put it back, or start again"
            )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turns SQLite's errors of this block into StoreGoneErrors of one line."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None:
                raise
            remedy = _REMEDIES.get(code & 0xFF)
            if remedy is None:
                raise
            raise StoreGoneError(f"'{self.path}': {remedy} ({error})") from error

    def _create(self) -> None:
        """Creates the file if it is missing, completely or not at all."""
        check_replaceable(self.path)
        if self.path.exists():
            return

        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        lock_path = folder / f".{self.path.name}.lock"
        lock = lock_file(lock_path)
        assert lock is not None
        try:
            # Another process may have created it in the meantime.
            if not self.path.exists():
                with new_file(self.path) as partial:
                    partial.chmod(0o600)
                    with self.explaining():
                        _write_tables(partial)
                _sync_folder(folder)
                _sync_folder(folder.parent)
        finally:
            lock_path.unlink(missing_ok=True)
            os.close(lock)

    def _check_format(self) -> None:
        not_a_store = UserError(
            f"'{self.path}' is not a store of users' events, or is damaged: name another file"
        )
        try:
            with self.explaining(), closing(self.connect()) as connection:
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        except StoreGoneError as error:
            cause = error.__cause__
            assert isinstance(cause, sqlite3.Error)
            if cause.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise not_a_store from error
            raise

        if application != _APPLICATION:
            raise not_a_store
        if version != _FORMAT:
            raise UserError(
                f"'{self.path}' has format {version}, and this version reads format {_FORMAT}: "
                "use the version that wrote it, or name another file"
            )
        if mode != "wal":
            raise UserError(
                f"'{self.path}' does not use a write-ahead log, perhaps because it is in a network "
                "folder: name a file on a local disk, or use redis://"
            )


def _write_tables(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN;{_TABLES}COMMIT;")


def _identity(file: Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
