"""A store of users' events in a SQLite file: for the services of one machine.

The file uses a write-ahead log, so readers and the writer do not wait for each other. Several
processes may use the file; one of them writes at a time.
"""

import logging
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torchrec_priors.state.event import UserEvent, check_events, check_user
from torchrec_priors.state.group_commit import GroupCommit
from torchrec_priors.state.sqlite_file import StoreFile
from torchrec_priors.state.store import MOST, Appended, EventConflictError, Kept

_log = logging.getLogger(__name__)


class SqliteStore:
    """Implements `UserStore`. A process that forks must open it after the fork."""

    def __init__(self, file: Path, *, most: int = MOST) -> None:
        """Opens or creates the file, and checks that it can be written.

        Args:
            file: the SQLite file. Its folder is created if necessary.
            most: the number of events that a user keeps.

        Raises:
            UserError: the file is not a store, or must not be read or written.
            StoreGoneError: it cannot be read or written now.
        """
        assert most > 0
        self._most = most
        self._file = StoreFile(file)
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed = False
        self._writer = GroupCommit(self._file)
        try:
            self.check()
        except BaseException:
            self.close()
            raise

    def append(self, events: Sequence[UserEvent]) -> Appended:
        """Implements `UserStore.append`. Calls of several threads share a commit."""
        check_events(events)
        if not events:
            return Appended(0, 0)
        return self._writer.write(lambda connection: _append(connection, events, self._most))

    def last(self, user: str, count: int) -> Kept:
        """Implements `UserStore.last`."""
        return self.last_many([user], count)[0]

    def last_many(self, users: Sequence[str], count: int) -> list[Kept]:
        """Implements `UserStore.last_many`. All users are read at the same state of the file."""
        for user in users:
            check_user(user)
        with self._reader() as connection:
            return [_last(connection, user, count) for user in users]

    def count(self, user: str) -> int:
        """Implements `UserStore.count`."""
        check_user(user)
        with self._reader() as connection:
            found = connection.execute("SELECT kept FROM users WHERE user = ?", (user,)).fetchone()
        return 0 if found is None else found[0]

    def forget(self, user: str) -> bool:
        """Implements `UserStore.forget`. The events are overwritten in the file and its log."""
        check_user(user)
        changed = self._writer.write(lambda connection: _forget(connection, user))
        if changed:
            # Until the log is emptied, it contains the deleted events.
            with self._connection() as connection:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                _log.warning(
                    "'%s' is in use, so its write-ahead log contains the events of a forgotten "
                    "user until it is written again",
                    self._file.path,
                )
        return changed

    def check(self) -> None:
        """Implements `UserStore.check`, by a write."""
        self._writer.write(
            lambda connection: connection.execute("UPDATE checks SET number = number + 1")
        )

    def close(self) -> None:
        """Implements `UserStore.close`."""
        self._writer.close()
        self._closed = True
        while self._readers:
            self._readers.pop().close()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection in a transaction, so all reads see the same state of the file."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection for this thread alone. Connections are used again."""
        with self._file.explaining():
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._file.connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise

        self._readers.append(connection)
        if self._closed:
            self.close()


@dataclass(slots=True)
class _User:
    """A user's row in the file, and the new events of the user."""

    number: int | None = None
    version: int = 0
    arrivals: int = 0
    kept: int = 0
    trimmed: int = 0
    forgotten: int = 0
    new: dict[str, UserEvent] = field(default_factory=dict)


_USER = "SELECT number, version, arrivals, kept, trimmed, forgotten FROM users WHERE user = ?"


def _append(connection: sqlite3.Connection, events: Sequence[UserEvent], most: int) -> Appended:
    """Writes the events that are new. A conflict is found before the first change."""
    users: dict[str, _User] = {}
    duplicates = 0
    for event in events:
        user = users.get(event.user)
        if user is None:
            user = users[event.user] = _user(connection, event.user)

        same = user.new.get(event.event_id) or _stored(connection, user, event)
        if same is None:
            user.new[event.event_id] = event
        elif same == event:
            duplicates += 1
        else:
            raise EventConflictError(event.event_id, event.user)

    trimmed = sum(_write(connection, name, user, most) for name, user in users.items() if user.new)
    return Appended(len(events) - duplicates, duplicates, trimmed)


def _user(connection: sqlite3.Connection, name: str) -> _User:
    found = connection.execute(_USER, (name,)).fetchone()
    return _User() if found is None else _User(*found)


def _stored(connection: sqlite3.Connection, user: _User, event: UserEvent) -> UserEvent | None:
    """Returns the stored event with the id of `event`."""
    if not user.kept:
        return None
    found = connection.execute(
        "SELECT item, time, event FROM events WHERE user = ? AND event_id = ?",
        (user.number, event.event_id),
    ).fetchone()
    return None if found is None else UserEvent(event.event_id, event.user, *found)


def _write(connection: sqlite3.Connection, name: str, user: _User, most: int) -> int:
    """Writes the new events of a user, and returns how many events were trimmed."""
    number = user.number
    if number is None:
        number = _insert(connection, name, forgotten=False)

    connection.executemany(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
        [
            (number, event.time, user.arrivals + nth, event.event_id, event.item, event.event)
            for nth, event in enumerate(user.new.values(), 1)
        ],
    )

    excess = max(0, user.kept + len(user.new) - most)
    if excess:
        connection.execute(
            "DELETE FROM events WHERE user = ?1 AND (time, arrival) <= (SELECT time, arrival "
            "FROM events WHERE user = ?1 ORDER BY time, arrival LIMIT 1 OFFSET ?2)",
            (number, excess - 1),
        )
    connection.execute(
        "UPDATE users SET version = version + 1, arrivals = arrivals + ?, kept = ?, "
        "trimmed = trimmed + ? WHERE number = ?",
        (len(user.new), user.kept + len(user.new) - excess, excess, number),
    )
    return excess


def _insert(connection: sqlite3.Connection, name: str, *, forgotten: bool) -> int:
    """Adds a user without events, and returns the user's number."""
    number = connection.execute(
        "INSERT INTO users (user, version, arrivals, kept, trimmed, forgotten) "
        "VALUES (?, 0, 0, 0, 0, ?)",
        (name, int(forgotten)),
    ).lastrowid
    assert number is not None
    return number


def _last(connection: sqlite3.Connection, name: str, count: int) -> Kept:
    user = _user(connection, name)
    if user.number is None:
        return Kept()

    rows = connection.execute(
        "SELECT event_id, item, time, event FROM events WHERE user = ? "
        "ORDER BY time DESC, arrival DESC LIMIT ?",
        (user.number, max(0, count)),
    ).fetchall()
    events = tuple(
        UserEvent(event_id, name, item, time, event)
        for event_id, item, time, event in reversed(rows)
    )
    return Kept(events, user.version, bool(user.forgotten), user.trimmed)


def _forget(connection: sqlite3.Connection, name: str) -> bool:
    user = _user(connection, name)
    if user.forgotten and not user.kept:
        return False

    number = user.number
    if number is None:
        number = _insert(connection, name, forgotten=True)
    connection.execute("DELETE FROM events WHERE user = ?", (number,))
    connection.execute(
        "UPDATE users SET version = version + 1, kept = 0, trimmed = 0, forgotten = 1 "
        "WHERE number = ?",
        (number,),
    )
    return True
