"""Group commit: one thread writes to a SQLite file, and calls that wait at the same time share a
commit.

A commit waits for the disk, which takes much longer than writing a few rows. While a commit is on
its way, the next writes gather. They are then written in one transaction.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Generic, TypeVar

from torchrec_priors.errors import UserError
from torchrec_priors.state.sqlite_file import StoreFile
from torchrec_priors.state.store import StoreGoneError

T = TypeVar("T")

# The most writes that share a commit. It bounds how long the first of them waits.
_MOST = 512
# If the disk hangs, callers get an error after so many seconds.
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class _Write(Generic[T]):
    """A write that waits for its commit, and the future of its result."""

    work: Callable[[sqlite3.Connection], T]
    done: Future[T]


class GroupCommit:
    """The only writer to a file in this process. Other processes may have writers of their own."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._connection = file.connect()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        # Nothing may be queued after the thread was told to end: nobody would answer.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="user-events", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Calls `work` in a transaction, and returns its result when it is durable.

        Args:
            work: writes to the connection. It may raise a UserError before its first change, but
                not after it, because other writes share the transaction.

        Raises:
            StoreGoneError: the file cannot be written. Nothing of `work` was stored, unless the
                message says that the disk did not answer.
        """
        write = _Write(work, Future[T]())
        with self._lock:
            if self._closed:
                raise StoreGoneError(f"'{self._file.path}' has been closed: open the store again")
            self._queue.put(write)

        try:
            return write.done.result(_PATIENCE_S)
        except FutureTimeoutError:
            raise StoreGoneError(
                f"'{self._file.path}': the disk has not answered for {_PATIENCE_S:.0f} s, and may "
                "or may not store the events: send them again, with the same event ids"
            ) from None

    def close(self) -> None:
        """Finishes the writes that wait, and closes the connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            group: list[_Write] = []
            write = self._queue.get()
            while write is not None:
                group.append(write)
                if len(group) == _MOST or self._queue.empty():
                    break
                write = self._queue.get()

            ended = write is None
            if group:
                self._answer(group)
        self._connection.close()

    def _answer(self, group: list[_Write]) -> None:
        """Commits a group, and gives each write its result or its error."""
        try:
            results = self._commit(group)
        except StoreGoneError as error:
            for write in group:
                write.done.set_exception(error)
        except Exception as error:
            # A write has failed for a reason of its own, which must not concern the others.
            if len(group) == 1:
                group[0].done.set_exception(error)
                return
            for write in group:
                self._answer([write])
        else:
            for write, result in zip(group, results, strict=True):
                if isinstance(result, UserError):
                    write.done.set_exception(result)
                else:
                    write.done.set_result(result)

    def _commit(self, group: list[_Write]) -> list[object]:
        """Does the writes of a group in one transaction. The results may be UserErrors."""
        connection = self._connection
        self._file.check_in_place()
        with self._file.explaining():
            try:
                connection.execute("BEGIN IMMEDIATE")
                results = [_outcome(write, connection) for write in group]
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return results


def _outcome(write: _Write, connection: sqlite3.Connection) -> object:
    try:
        return write.work(connection)
    except UserError as error:
        return error
