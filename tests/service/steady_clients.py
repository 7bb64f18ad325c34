"""Clients that call a service again and again, until it refuses connections."""

import http.client
import json
import threading
import time
from collections import Counter
from typing import Any

_PATIENCE_S = 60


class SteadyClients:
    """Threads that ask for recommendations. Every other one keeps its connection.

    Attributes:
        statuses: how often each status came.
        refused: how many threads ended because their connection was refused.
        broken: the errors of all other threads.
        unannounced: headers of the responses with 503 that lack `Connection: close` or
            `Retry-After`.
    """

    def __init__(self, port: int, body: Any, *, threads: int) -> None:
        self._port = port
        self._body = json.dumps(body)
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.refused = 0
        self.broken: list[BaseException] = []
        self.unannounced: list[dict[str, str]] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, status: int, count: int) -> None:
        """Waits until a status has come so often."""
        until = time.monotonic() + _PATIENCE_S
        while self.statuses[status] < count:
            assert not self.broken, self.broken
            assert any(thread.is_alive() for thread in self._threads), self.statuses
            assert time.monotonic() < until, self.statuses
            time.sleep(0.005)

    def join(self) -> None:
        """Waits until all threads have ended."""
        for thread in self._threads:
            thread.join(_PATIENCE_S)
            assert not thread.is_alive()

    def _run(self, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE_S)
        try:
            while True:
                self._call(connection)
                if not keeps:
                    connection.close()
        except ConnectionRefusedError:
            with self._lock:
                self.refused += 1
        except BaseException as error:
            with self._lock:
                self.broken.append(error)
        finally:
            connection.close()

    def _call(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/v1/recommend", self._body)
        response = connection.getresponse()
        # An answer that is cut off raises an error.
        json.loads(response.read())
        headers = {name.lower(): value for name, value in response.getheaders()}
        is_announced = headers.get("connection") == "close" and "retry-after" in headers
        with self._lock:
            self.statuses[response.status] += 1
            if response.status == 503 and not is_announced:
                self.unannounced.append(headers)
