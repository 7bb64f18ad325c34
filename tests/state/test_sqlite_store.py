"""The store in a SQLite file: commits are shared, several processes write, and what goes wrong is one clear line."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.state import sqlite_file
from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.group_commit import GroupCommit
from torchrec_priors.state.opening import open_store
from torchrec_priors.state.sqlite import SqliteStore
from torchrec_priors.state.sqlite_file import StoreFile
from torchrec_priors.state.store import Appended, StoreGoneError

# An item id that takes much of a page.
BIG = "x" * 900
ROOT = Path(__file__).parents[2]


def clicks(user: str, first: int, count: int, item: str = "50") -> list[UserEvent]:
    return [
        UserEvent(f"{number}", user, item, number, "click")
        for number in range(first, first + count)
    ]


def fill(store: SqliteStore) -> tuple[int, StoreGoneError]:
    """Appends events of ann until it fails; returns how many were acknowledged, and the error."""
    for stored in range(0, 10_000, 20):
        try:
            store.append(clicks("ann", stored, 20, BIG))
        except StoreGoneError as error:
            return stored, error
    raise AssertionError("it was never full")


def check_line(error: BaseException, file: Path, *words: str) -> None:
    """The error is one short line that names the file."""
    line = str(error)
    assert str(file) in line
    assert "\n" not in line
    assert len(line) < 400
    for word in words:
        assert word in line


def test_calls_that_wait_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StoreFile(tmp_path / "users.sqlite")
    statements: list[str] = []
    connect = file.connect

    def traced() -> sqlite3.Connection:
        connection = connect()
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(file, "connect", traced)
    writer = GroupCommit(file)
    started = threading.Event()
    go_on = threading.Event()

    def slow(connection: sqlite3.Connection) -> str:
        started.set()
        go_on.wait(20)
        return "slow"

    def add(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE checks SET number = number + 1")

    def wrong(connection: sqlite3.Connection) -> None:
        raise UserError("wrong")

    with ThreadPoolExecutor(12) as threads:
        first = threads.submit(writer.write, slow)
        assert started.wait(20)
        added = [threads.submit(writer.write, add) for _ in range(10)]
        rejected = threads.submit(writer.write, wrong)
        while writer._queue.qsize() < 11:
            threading.Event().wait(0.001)
        go_on.set()
        assert first.result(20) == "slow"
        for future in added:
            future.result(20)
        with pytest.raises(UserError, match="wrong"):
            rejected.result(20)

    assert statements.count("COMMIT") == 2
    with closing(connect()) as reader:
        assert reader.execute("SELECT number FROM checks").fetchone() == (10,)
    writer.close()


def test_a_write_that_fails_does_not_concern_those_that_share_its_commit(tmp_path: Path) -> None:
    file = StoreFile(tmp_path / "users.sqlite")
    writer = GroupCommit(file)
    go_on = threading.Event()

    def add(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE checks SET number = number + 1")

    def fail(connection: sqlite3.Connection) -> None:
        add(connection)
        raise ZeroDivisionError

    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(writer.write, lambda connection: go_on.wait(20))
        works = [add, fail, add, fail, add]
        futures = [threads.submit(writer.write, work) for work in works]
        while writer._queue.qsize() < 5 and not first.done():
            threading.Event().wait(0.001)
        go_on.set()
        failed = [isinstance(future.exception(20), ZeroDivisionError) for future in futures]
    assert failed == [False, True, False, True, False]
    with closing(file.connect()) as reader:
        assert reader.execute("SELECT number FROM checks").fetchone() == (3,)
    writer.close()


CLIENT = """
import sys
from pathlib import Path
from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.opening import open_store
from torchrec_priors.state.store import StoreGoneError


def patiently(act):
    # As clients do: on a busy machine, another process may write for longer than 5 s.
    for _ in range(20):
        try:
            return act()
        except StoreGoneError as error:
            assert "try again" in str(error)
    raise AssertionError("the file was locked all the time")


store = patiently(lambda: open_store(f"sqlite:{sys.argv[1]}", Path()))
name = sys.argv[2]
accepted = 0
for number in range(40):
    shared = UserEvent(f"{number}", "shared", "50", number, None)
    own = UserEvent(f"{name} {number}", "shared", "50", number, None)
    accepted += patiently(lambda: store.append([shared, own])).accepted
    assert patiently(lambda: store.last("shared", 1000)).version > 0
store.close()
print(accepted)
"""


def test_several_processes_create_the_file_and_write_to_it(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "users.sqlite"
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(file), name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    accepted = [int(client.communicate(timeout=200)[0]) for client in clients]
    assert [client.returncode for client in clients] == [0, 0, 0]
    assert sum(accepted) == 4 * 40
    store = SqliteStore(file)
    events = store.last("shared", 1000).events
    assert len({event.event_id for event in events}) == len(events) == 4 * 40
    # The users' data are the owner's alone, and nothing else is left.
    assert file.stat().st_mode & 0o777 == 0o600
    store.close()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_full_file_is_one_line_and_nothing_is_half_done(tmp_path: Path) -> None:
    """SQLite meets its limit of pages as it meets a full disk."""
    file = tmp_path / "users.sqlite"
    store = SqliteStore(file)

    def limit(pages: int) -> None:
        store._writer.write(
            lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}")
        )

    limit(60)
    stored, error = fill(store)
    check_line(error, file, "full", "make room")
    assert stored > 0
    kept = store.last("ann", 1000)
    assert [event.time for event in kept.events] == list(range(stored))

    # There is room again: the same call succeeds.
    limit(10_000)
    assert store.append(clicks("ann", stored, 20, BIG)) == Appended(20, 0)
    assert store.last("ann", 1000).version == kept.version + 1
    store.close()
    assert _integrity(file) == "ok"


def test_a_file_that_another_process_locks_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.05)
    file = tmp_path / "users.sqlite"
    store = SqliteStore(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreGoneError) as found:
            store.append(clicks("ann", 0, 1))
        check_line(found.value, file, "another process", "try again")
        assert store.last("ann", 5).events == ()
    assert store.append(clicks("ann", 0, 1)) == Appended(1, 0)
    store.close()


def test_a_file_removed_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "users.sqlite"
    store = SqliteStore(file)
    file.unlink()
    for call in (store.check, lambda: store.append(clicks("ann", 0, 1))):
        with pytest.raises(StoreGoneError) as found:
            call()
        check_line(found.value, file, "removed or replaced")
    assert not file.exists()
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "users.sqlite")
    store.close()
    store.close()
    with pytest.raises(StoreGoneError, match="has been closed"):
        store.append(clicks("ann", 0, 1))


def _text(file: Path) -> None:
    file.write_text("these are not events\n" * 1000)


def _other_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")


def _newer_format(file: Path) -> None:
    SqliteStore(file).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_text, "not a store of users' events"),
        (_other_database, "not a store of users' events"),
        (Path.touch, "not a store of users' events"),
        (_newer_format, "has format 99"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_other_files_are_rejected_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    file = tmp_path / "users.sqlite"
    make(file)
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(UserError) as found:
        SqliteStore(file)
    check_line(found.value, file, words)
    if before is not None:
        assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "users.sqlite"
    store = SqliteStore(file)
    store.append(clicks("ann", 0, 2000))
    store.close()

    size = file.stat().st_size
    if damage == "cut":
        os.truncate(file, size // 8192 * 4096)
    else:
        with file.open("r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xa5" * (size - 4096))

    with pytest.raises(StoreGoneError) as found:
        SqliteStore(file).last("ann", 5000)
    check_line(found.value, file, "is damaged: restore a copy")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "users.sqlite"
    with pytest.raises(UserError) as found:
        SqliteStore(file)
    check_line(found.value, file, "store of users' events")


def test_forgotten_events_are_not_left_in_the_files(tmp_path: Path) -> None:
    file = tmp_path / "users.sqlite"
    store = SqliteStore(file)
    store.append(clicks("ann", 0, 300, item="a secret item"))
    store.append(clicks("bob", 0, 3, item="a kept item"))
    store.forget("ann")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"a secret item" not in content
    assert b"a kept item" in content
    store.close()


def test_without_a_uri_the_file_is_in_the_folder_of_the_run(tmp_path: Path) -> None:
    store = open_store(None, tmp_path)
    assert store is not None
    store.close()
    assert (tmp_path / "state" / "users.sqlite").is_file()


def test_a_uri_may_name_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a file?#%20.sqlite", f"//{tmp_path}/absolute.sqlite"):
        store = open_store(f"sqlite:{path}", tmp_path / "run")
        assert store is not None
        assert store.append(clicks("ann", 0, 1)) == Appended(1, 0)
        store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a file?#%20.sqlite",
        "absolute.sqlite",
    ]


def test_no_store(tmp_path: Path) -> None:
    assert open_store("none:", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("users.sqlite", "write for example sqlite:users.sqlite"),
        ("sqllite:users.sqlite", "did you mean 'sqlite'"),
        ("postgres://host/users", "valid: none, redis, rediss, sqlite, unix"),
        ("", "write for example"),
        ("sqlite:", "write sqlite:PATH"),
        ("sqlite://folder/users.sqlite", "write sqlite:PATH"),
        ("sqlite::memory:", "write sqlite:PATH"),
    ],
)
def test_wrong_uris_are_one_line(tmp_path: Path, uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as found:
        open_store(uri, tmp_path)
    assert "\n" not in str(found.value)


def _integrity(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def _store_on_small_disks(folder: Path) -> list[str]:
    """What the store says on a full disk, on one that only reads, and in a folder that nobody may write to."""
    from rooms import Disk, without_privileges

    said = []
    disk = Disk(folder / "disk")
    file = disk.folder / "users.sqlite"
    store = SqliteStore(file)
    disk.leave(400_000)
    stored, error = fill(store)
    said.append(str(error))
    assert len(store.last("ann", 10_000).events) == stored
    try:
        store.append(clicks("ann", stored, 500, BIG))
    except StoreGoneError as error:
        said.append(str(error))
    disk.make_room()
    assert store.append(clicks("ann", stored, 20, BIG)) == Appended(20, 0)
    store.check()
    store.close()
    assert _integrity(file) == "ok"

    disk.make_read_only()
    for path in (file, disk.folder / "new.sqlite"):
        try:
            SqliteStore(path)
        except (UserError, OutsideError) as error:
            said.append(str(error))

    disk.make_room()
    disk.folder.chmod(0o555)
    without_privileges()
    for path in (file, disk.folder / "new.sqlite"):
        try:
            SqliteStore(path)
        except (UserError, OutsideError) as error:
            said.append(str(error))
    return said


@pytest.mark.slow
def test_full_and_read_only_disks_are_one_line(tmp_path: Path) -> None:
    from rooms import in_a_room

    said = in_a_room(_store_on_small_disks, tmp_path)
    assert len(said) == 6
    for line in said:
        assert str(tmp_path / "disk") in line
        assert "\n" not in line
        assert len(line) < 400
    assert "full" in said[0]
    assert "full" in said[1]
    for line in said[2:]:
        assert any(word in line for word in ("written", "writable", "permission")), line
