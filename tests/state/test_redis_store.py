"""The store in Redis: a server that is gone, hangs, is full or comes back; its settings; and passwords."""

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from torchrec_priors.errors import UserError
from torchrec_priors.state.event import UserEvent
from torchrec_priors.state.opening import open_store
from torchrec_priors.state.store import Appended, StoreGoneError, UserStore

# The longest time of a call, with its repetitions and some room for a slow machine.
BOUND_S = 6.0


def click(event_id: str) -> UserEvent:
    return UserEvent(event_id, "ann", "50", 1, "click")


def opened(server: RedisServer, options: str = "") -> UserStore:
    store = open_store(server.uri + options, Path())
    assert store is not None
    return store


def until_it_answers(store: UserStore) -> None:
    """Waits for the store to recover, as a service does that checks it again and again."""
    until = time.monotonic() + 60
    while True:
        try:
            return store.check()
        except StoreGoneError:
            assert time.monotonic() < until, "the store does not recover"
            time.sleep(0.05)


def check_gone(store: UserStore, server: RedisServer) -> None:
    """Every call fails soon, with one line that names the server."""
    for call in (lambda: store.append([click("a")]), lambda: store.last("ann", 1), store.check):
        began = time.monotonic()
        with pytest.raises(StoreGoneError) as found:
            call()
        assert time.monotonic() - began < BOUND_S
        assert server.uri in str(found.value)
        assert "\n" not in str(found.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


def test_a_server_that_is_killed_and_comes_back(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(server)
    assert caplog.messages == []
    store.append([click("a"), click("b")])
    before = store.last("ann", 5)

    server.kill()
    check_gone(store, server)
    # A service that starts now warns, and recovers, too.
    late = opened(server)
    assert any("tried again with every call" in message for message in caplog.messages)

    server.start()
    for recovered in (store, late):
        until_it_answers(recovered)
        assert recovered.last("ann", 5) == before
    assert store.append([click("b"), click("c")]) == Appended(1, 1)
    store.close()
    late.close()


def test_calls_to_a_server_that_hangs_fail_soon_and_then_at_once(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(server, "?socket_timeout=0.1")
    resting = opened(server, "?socket_timeout=0.1")
    server.signal(signal.SIGSTOP)
    check_gone(store, server)

    monkeypatch.setattr("torchrec_priors.state.redis._REST_S", 1000.0)
    with pytest.raises(StoreGoneError, match="Timeout"):
        resting.last("ann", 1)
    with pytest.raises(StoreGoneError, match="did not answer just now"):
        resting.last("ann", 1)
    monkeypatch.undo()

    server.signal(signal.SIGCONT)
    until_it_answers(store)
    # What was sent while the server hung may have arrived: repeating it is safe.
    store.append([click("a")])
    assert store.count("ann") == 1
    store.close()


def test_a_full_server_stores_nothing_of_a_call(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    server.start()
    store = opened(server)
    with pytest.raises(StoreGoneError, match="maxmemory"):
        store.append([click("a"), click("b")])
    assert (store.count("ann"), store.last("ann", 5).version) == (0, 0)
    with pytest.raises(StoreGoneError):
        store.check()
    store.close()
    server.close()


def test_settings_that_lose_events_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--appendfsync", "everysec", "--maxmemory-policy", "allkeys-lru")
    server = RedisServer(tmp_path, *options, durable=False)
    server.start()
    with caplog.at_level(logging.WARNING):
        store = opened(server)
        store.append([click("a")])
    warned = sorted(message.split(" has ")[1].split(",")[0] for message in caplog.messages)
    assert warned == ["appendfsync everysec", "appendonly no", "maxmemory-policy allkeys-lru"]
    store.close()
    server.close()


def test_a_wrong_password_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--requirepass", "right")
    server.start()
    for user in ("", ":secret@", "ann:secret@"):
        uri = server.uri.replace("redis://", f"redis://{user}")
        with pytest.raises(UserError, match="right user and password") as found:
            open_store(uri, tmp_path)
        assert "secret" not in str(found.value)
    store = open_store(server.uri.replace("redis://", "redis://:right@"), tmp_path)
    assert store is not None
    assert store.append([click("a")]) == Appended(1, 0)
    store.close()
    server.close()


@pytest.mark.parametrize(
    "uri", ["redis://localhost:port/0", "redis:x", "redis://:secret@localhost/0?unknown=secret"]
)
def test_wrong_uris_of_redis_are_one_line(tmp_path: Path, uri: str) -> None:
    pytest.importorskip("redis", reason="needs the extra redis")
    with pytest.raises(UserError, match="correct the URI") as found:
        open_store(uri, tmp_path)
    assert "\n" not in str(found.value)
    assert "secret" not in str(found.value)
