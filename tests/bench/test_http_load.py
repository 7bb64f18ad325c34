"""The load generator sends what was planned, and measures from the planned moment."""

import asyncio
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.bench.http_connection import BrokenAnswerError, read_answer
from torchrec_priors.bench.http_load import (
    Load,
    arrivals,
    percentile,
    send_from_a_process,
    send_load,
)

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers requests on a free port of this machine, in a thread."""

    def __init__(self, answer, delay):
        self.answer = answer
        self.delay = delay
        self.received = []
        self.connections = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self):
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def _connected(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.received.append((head.split(b" ")[1], await reader.readexactly(length)))
                await asyncio.sleep(self.delay(len(self.received)))
                writer.write(self.answer)
                if self.answer is not ANSWER:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def end(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)


@contextmanager
def serving(answer=ANSWER, delay=lambda number: 0.0):
    server = Server(answer, delay)
    try:
        yield server
    finally:
        server.end()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 100))
def test_percentiles_are_those_of_the_definition(values, percent):
    ascending = sorted(values)
    expected = np.percentile(ascending, percent, method="inverted_cdf")
    assert percentile(ascending, percent / 100) == expected


def test_arrivals_are_a_poisson_process():
    moments = np.array(arrivals(50.0, 400.0, seed=3))
    gaps = np.diff(moments)
    assert moments.tolist() == sorted(arrivals(50.0, 400.0, seed=3))
    assert moments[0] > 0
    assert moments[-1] < 400
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)


def test_an_answer_may_come_in_any_pieces():
    second = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    for end in range(len(ANSWER)):
        assert read_answer(ANSWER[:end]) is None
    assert read_answer(ANSWER + second) == (200, len(ANSWER), True)
    assert read_answer(second) == (503, len(second), False)


@pytest.mark.parametrize(
    "received",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_an_error(received):
    with pytest.raises(BrokenAnswerError):
        read_answer(received)


def test_the_open_loop_sends_what_was_planned_and_sorts_latencies():
    # Every tenth answer is slow.
    with serving(delay=lambda number: 0.15 if number % 10 == 0 else 0.0) as server:
        load = Load(server.port, "/v1/recommend", seconds=1.0, rate=120, clients=64, warm_up=0.2)
        measured = send_load(load, [b'{"user":1}', b'{"user":2}'])
    planned = arrivals(120, 1.2, seed=0)
    counted = sum(moment >= 0.2 for moment in planned)
    assert len(server.received) == len(planned)
    assert set(server.received) == {
        (b"/v1/recommend", b'{"user":1}'),
        (b"/v1/recommend", b'{"user":2}'),
    }
    assert (measured.answered, measured.lost) == (counted, 0)
    assert measured.statuses == {"200": counted}
    assert measured.per_second == counted
    assert measured.p50 < 0.1
    assert 0.15 <= measured.p95 <= measured.p99 <= measured.longest
    assert server.connections < len(planned), "connections stay open"


def test_the_p99_of_a_median_second_leaves_out_a_slow_second():
    # In the first of three seconds, every request is slow.
    began = time.monotonic()
    with serving(delay=lambda number: 0.3 if time.monotonic() < began + 0.9 else 0.0) as server:
        measured = send_load(Load(server.port, "/", seconds=3.0, rate=60, clients=64), [b"{}"])
    assert measured.p99 >= 0.3
    assert measured.p99_second < 0.3


def test_a_request_that_waits_for_a_connection_waits_from_its_planned_moment():
    with serving(delay=lambda number: 0.02) as server:
        measured = send_load(Load(server.port, "/", seconds=0.4, rate=100, clients=1), [b"{}"])
    # Twice as many requests come as one connection can answer, so the last ones wait for long.
    assert server.connections == 1
    assert measured.lost == 0
    assert measured.p99 > 0.2


def test_the_closed_loop_has_one_connection_for_each_client():
    with serving(delay=lambda number: 0.02) as server:
        measured = send_load(Load(server.port, "/", seconds=0.4, clients=5, warm_up=0.1), [b"{}"])
    assert server.connections == 5
    assert measured.lost == 0
    assert measured.seconds == 0.4
    # At most 5 clients x 50 answers per second; this machine may be busy.
    assert 20 <= measured.answered <= 105
    assert measured.p50 >= 0.02


def test_what_has_no_answer_is_lost_and_other_statuses_are_no_answers():
    busy = b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    with serving(answer=busy) as server:
        measured = send_load(Load(server.port, "/", seconds=0.2, rate=50), [b"{}"])
    assert measured.answered == measured.p50 == 0
    assert measured.statuses == {"429": len(server.received)}

    with serving(answer=b"HTTP/1.1 200 OK\r\n") as server:
        measured = send_load(Load(server.port, "/", seconds=0.2, rate=50), [b"{}"])
    assert measured.lost == len(arrivals(50, 0.2, seed=0))
    assert measured.statuses == {}

    # Nothing listens there any more.
    measured = send_load(Load(server.port, "/", seconds=0.3, clients=2), [b"{}"])
    assert measured.lost > 0
    assert measured.answered == 0


def test_a_process_of_its_own_measures_the_same(tmp_path):
    bodies = tmp_path / "bodies"
    bodies.write_bytes(b'{"user":1}\n{"user":2}\n')
    with serving() as server:
        load = Load(server.port, "/", seconds=0.3, rate=50)
        measured = send_from_a_process(load, bodies)
    assert measured.answered == len(server.received) == len(arrivals(50, 0.3, seed=0))
    assert {body for _, body in server.received} == {b'{"user":1}', b'{"user":2}'}
    assert 0 < measured.cpu_share < 1
