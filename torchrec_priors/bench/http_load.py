"""Sends requests to a service on this machine, and measures how long the answers take.

It runs in a process of its own, in one of two modes:

    open loop      Requests arrive at random moments (a Poisson process), whether or not earlier
                   ones were answered. A latency counts from the planned arrival, so a request that
                   waits for a connection, or for this process, is not measured as faster.
    closed loop    N clients each send the next request when the answer to the last one has come.
                   This measures the capacity.

The client knows only as much of HTTP/1.1 as the service needs: POST, connections that stay open,
and answers with a Content-Length. It is light because it uses the same cores as the service.
"""

import argparse
import asyncio
import json
import math
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torchrec_priors.bench.http_connection import BrokenAnswerError, Connection

_MOST_CONNECTIONS = 256  # `select` takes up to 1,024 files
_MOST_REQUESTS = 1_000_000
_MOST_SECONDS = 600.0
_GRACE = 10.0  # seconds that answers may take after the last arrival
_PAUSE = 0.1  # seconds after a lost request, in the closed loop


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        port: the port of the service on 127.0.0.1.
        path: the path of all requests.
        seconds: the seconds in which requests arrive, without the warm-up.
        rate: requests per second in the open loop; 0 for the closed loop.
        clients: the clients of the closed loop; in the open loop, the most connections.
        warm_up: seconds at the beginning whose requests are sent, but not measured.
        seed: of the arrivals and of the order of the bodies.
    """

    port: int
    path: str
    seconds: float
    rate: float = 0.0
    clients: int = 16
    warm_up: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        assert 1 <= self.clients <= _MOST_CONNECTIONS
        assert 0 < self.seconds + self.warm_up <= _MOST_SECONDS
        assert 0 <= self.rate * (self.seconds + self.warm_up) <= _MOST_REQUESTS


@dataclass
class Measured:
    """What came back. Requests of the warm-up are left out.

    Attributes:
        answered: the number of answers with status 200.
        statuses: the number of answers by status.
        lost: requests without an answer: a connection broke, or the answer took too long.
        seconds: the seconds in which the requests arrived or, in the closed loop, were answered.
        p50, p95, p99, longest: latencies of answers with status 200, in seconds; 0 without any.
        p99_second: the median over seconds of the p99 of the requests of each second. It leaves out
            the seconds in which the machine itself stood still, which the p99 has in it.
        cpu_share: the CPU time of this process, as a share of one core.
    """

    answered: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    p99_second: float = 0.0
    cpu_share: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers with status 200 per second."""
        return self.answered / self.seconds if self.seconds else 0.0


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Returns the planned moments of a Poisson process, in seconds from its start, ascending."""
    moments = []
    chance = random.Random(seed)
    moment = chance.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += chance.expovariate(rate)
    return moments


def percentile(ascending: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least a share of the values do not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5), percentile([1.0, 2.0, 3.0, 4.0], 0.99)
    (2.0, 4.0)
    """
    # Rounding removes errors: 0.07 x 100 is 7.000000000000001.
    rank = math.ceil(round(share * len(ascending), 9))
    return ascending[max(rank, 1) - 1]


def median_second(latencies: Sequence[tuple[int, float]], share: float) -> float:
    """Returns the median over seconds of a percentile of the requests of each second.

    Args:
        latencies: of each request its second, and its latency.
        share: see `percentile`.

    >>> median_second([(0, 1.0), (0, 2.0), (1, 50.0), (2, 3.0)], 0.99)
    3.0
    """
    seconds: dict[int, list[float]] = {}
    for second, latency in latencies:
        seconds.setdefault(second, []).append(latency)
    return percentile(sorted(percentile(sorted(each), share) for each in seconds.values()), 0.5)


class _Client:
    """Connections to the service, and what came back over them."""

    def __init__(self, load: Load, bodies: Sequence[bytes]) -> None:
        self._port = load.port
        self._requests = [_request(load, body) for body in bodies]
        self._chance = random.Random(load.seed + 1)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._free = asyncio.Semaphore(load.clients)
        # Of each answer, the second in which its request was planned or sent, and its latency.
        self.latencies: list[tuple[int, float]] = []
        self.measured = Measured(seconds=load.seconds)

    async def send(self) -> int | None:
        """Sends one of the requests; returns the status of the answer, None if it is lost."""
        request = self._chance.choice(self._requests)
        async with self._free:
            try:
                connection = await self._connected()
                status = await connection.send(request)
            except (OSError, BrokenAnswerError):
                return None
            self._idle.append(connection)
            return status

    def record(self, status: int | None, second: int, latency: float) -> None:
        """Counts an answer.

        Args:
            status: of the answer; None if the request was lost.
            second: the second in which the request was planned or sent.
            latency: in seconds.
        """
        if status is None:
            self.measured.lost += 1
            return
        name = str(status)
        self.measured.statuses[name] = self.measured.statuses.get(name, 0) + 1
        if status == 200:
            self.latencies.append((second, latency))

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._all:
            connection.close()

    async def _connected(self) -> Connection:
        """Returns a connection that no other request uses."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self._all.discard(connection)
        loop = asyncio.get_running_loop()
        _, opened = await loop.create_connection(Connection, "127.0.0.1", self._port)
        self._all.add(opened)
        return opened


def _request(load: Load, body: bytes) -> bytes:
    """Returns a whole request as bytes."""
    head = (
        f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _open_loop(load: Load, client: _Client) -> None:
    """Sends requests at their planned moments."""
    started = time.perf_counter()
    running: dict[asyncio.Task[None], bool] = {}

    async def one(planned: float, *, counts: bool) -> None:
        status = await client.send()
        if counts:
            client.record(status, int(planned - started), time.perf_counter() - planned)

    for moment in arrivals(load.rate, load.warm_up + load.seconds, load.seed):
        planned = started + moment
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        counts = moment >= load.warm_up
        task = asyncio.create_task(one(planned, counts=counts))
        running[task] = counts
        task.add_done_callback(running.pop)

    if running:
        await asyncio.wait(list(running), timeout=_GRACE)
    # Those that remain have waited too long.
    client.measured.lost += sum(running.values())
    for task in running:
        task.cancel()


async def _closed_loop(load: Load, client: _Client) -> None:
    """Lets clients send one request after another; counts the answers that come in time."""
    started = time.perf_counter()
    measured_from = started + load.warm_up
    ends = measured_from + load.seconds

    async def one_after_another() -> None:
        while (sent := time.perf_counter()) < ends:
            status = await client.send()
            now = time.perf_counter()
            if measured_from <= now < ends:
                client.record(status, int(sent - started), now - sent)
            # Without a service, nothing else would slow the loop down.
            if status is None:
                await asyncio.sleep(_PAUSE)

    clients = [asyncio.create_task(one_after_another()) for _ in range(load.clients)]
    await asyncio.wait(clients, timeout=load.warm_up + load.seconds + _GRACE)
    for task in clients:
        client.measured.lost += not task.done()
        task.cancel()


async def _send_all(load: Load, bodies: Sequence[bytes]) -> Measured:
    """Sends a load. See `send_load`."""
    client = _Client(load, bodies)
    began = time.perf_counter()
    cpu = time.process_time()
    try:
        if load.rate:
            await _open_loop(load, client)
        else:
            await _closed_loop(load, client)
    finally:
        client.close()

    measured = client.measured
    measured.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - began)
    measured.answered = len(client.latencies)
    if client.latencies:
        ascending = sorted(latency for _, latency in client.latencies)
        measured.p50 = percentile(ascending, 0.5)
        measured.p95 = percentile(ascending, 0.95)
        measured.p99 = percentile(ascending, 0.99)
        measured.longest = ascending[-1]
        measured.p99_second = median_second(client.latencies, 0.99)
    return measured


def send_load(load: Load, bodies: Sequence[bytes]) -> Measured:
    """Sends a load from this process. Each request has one of the bodies, chosen at random."""
    # The timers of `epoll` have whole milliseconds, those of `select` microseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(_send_all(load, bodies))


def send_from_a_process(load: Load, bodies: Path) -> Measured:
    """Sends a load from a separate process.

    Args:
        load: the load.
        bodies: a file with a body in each line.

    Raises:
        RuntimeError: the process failed.
    """
    arguments = [str(bodies), json.dumps(asdict(load))]
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"load: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return Measured(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bodies", type=Path)
    parser.add_argument("load", type=json.loads)
    given = parser.parse_args()

    bodies = given.bodies.read_bytes().splitlines()
    print(json.dumps(asdict(send_load(Load(**given.load), bodies))))  # noqa: T201


if __name__ == "__main__":
    main()
