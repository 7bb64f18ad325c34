"""Every acknowledged event is stored exactly once, whenever the client or the server is killed."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from event_stream import THREADS, Found, check_stored, event_of_stream
from redis_server import RedisServer

from torchrec_priors.state.opening import open_store

ROOT = Path(__file__).parents[2]
CLIENT = Path(__file__).with_name("appending_client.py")
TOTAL = 50_000
KILLS = 20


class Client:
    """The client process, and how many events of each of its threads were acknowledged."""

    def __init__(self, uri: str, total: int) -> None:
        self._uri = uri
        self._total = total
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self.acknowledged = [0] * THREADS

    def start(self) -> None:
        """Starts the client, which repeats what was not acknowledged."""
        command = [sys.executable, str(CLIENT), self._uri, str(self._total)]
        command += [str(stored) for stored in self.acknowledged]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, bufsize=0
        )

    def run_until(self, enough: int) -> bool:
        """Reads acknowledgements until so many events have one, or the process ends; whether it runs."""
        assert self._process is not None
        assert self._process.stdout is not None
        while sum(self.acknowledged) < enough:
            read = self._process.stdout.read(4096)
            self._take(read)
            if not read:
                assert self._process.wait() == 0
                return False
        return True

    def kill(self) -> None:
        """Kills the process, and reads what it had acknowledged by then."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        while read := self._process.stdout.read(4096):
            self._take(read)
        self._unread = b""
        self._process.stdout.close()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _take(self, read: bytes) -> None:
        *lines, self._unread = (self._unread + read).split(b"\n")
        for line in lines:
            thread, stored = line.split()
            self.acknowledged[int(thread)] = int(stored)


def campaign(
    client: Client, uri: str, total: int, kills: int, kill_server: Callable[[], None] | None
) -> None:
    """Kills the client, and the server if there is one, at random times of the stream."""
    draws = random.Random(7)
    client.start()
    for enough in sorted(draws.sample(range(total * 9 // 10), kills)):
        assert client.run_until(enough)
        if kill_server is not None:
            kill_server()
            # The same client continues; it repeats the calls that failed.
            assert client.run_until(min(enough + total // (4 * kills), total * 19 // 20))
        client.kill()
        check_stored(uri, total, client.acknowledged)
        client.start()

    assert not client.run_until(total + 1)
    assert sum(client.acknowledged) == total
    check_stored(uri, total, client.acknowledged)


def test_what_is_lost_or_was_never_sent_is_noticed(tmp_path: Path) -> None:
    uri = f"sqlite:{tmp_path / 'users.sqlite'}"
    store = open_store(uri, tmp_path)
    assert store is not None
    events = [event_of_stream(number) for number in range(400)]
    store.append([event for event in events if event.event_id not in ("event 8", "event 399")])

    with pytest.raises(AssertionError, match="lost=1"):
        check_stored(uri, 400, [90] * THREADS)
    store.append(events)
    assert check_stored(uri, 400, [90] * THREADS) == Found(360, 0, 0, further=40)
    assert check_stored(uri, 400, [100] * THREADS) == Found(400, 0, 0, further=0)
    with pytest.raises(AssertionError):
        check_stored(uri, 400, [10] * THREADS)

    store.append([replace(events[8], user=events[9].user)])
    with pytest.raises(AssertionError, match="twice=1"):
        check_stored(uri, 400, [100] * THREADS)
    store.close()


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Clients that are killed at the end of the test."""
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


SIZES = [
    pytest.param(3_000, 2, marks=pytest.mark.slow, id="short"),
    pytest.param(TOTAL, KILLS, marks=[pytest.mark.campaign, pytest.mark.timeout(3600)], id="long"),
]


@pytest.mark.parametrize(("total", "kills"), SIZES)
def test_a_sqlite_store_keeps_what_it_acknowledged(
    tmp_path: Path, clients: list[Client], total: int, kills: int
) -> None:
    uri = f"sqlite:{tmp_path / 'users.sqlite'}"
    clients.append(Client(uri, total))
    campaign(clients[0], uri, total, kills, kill_server=None)


@pytest.mark.parametrize(("total", "kills"), SIZES)
def test_a_redis_store_keeps_what_it_acknowledged(
    tmp_path: Path, clients: list[Client], total: int, kills: int
) -> None:
    """The client is killed, and the server, too, which reads its log when it starts again."""
    server = RedisServer(tmp_path)
    server.start()

    def kill_server() -> None:
        server.kill()
        server.start()

    clients.append(Client(server.uri, total))
    try:
        campaign(clients[0], server.uri, total, kills, kill_server)
    finally:
        server.close()
