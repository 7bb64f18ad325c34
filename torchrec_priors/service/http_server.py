"""Uvicorn in this process: its limits, and how it ends."""

import asyncio
import logging
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket

import uvicorn
from starlette.types import ASGIApp

from torchrec_priors.service.connections import Connection, State
from torchrec_priors.service.sockets import drop_attempts, has_input

log = logging.getLogger(__name__)

_KEEP_ALIVE = 75  # seconds that a connection may be idle; more than load balancers usually keep it
_MOST_CONNECTIONS = 4096
_OTHER_FILES = 256  # open files that are not connections
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Seconds in which clients that know the server learn that it ends.
_GRACE_S = 1.0
# Seconds for connections that have begun, and are not there yet.
_HANDSHAKES_S = 0.1
# The most seconds in which connections that are there are accepted.
_ACCEPT_S = 1.0
# Seconds between two looks at connections while the server ends.
_LOOK_S = 0.05


class HttpServer(uvicorn.Server):
    """A server that ends on SIGTERM or Ctrl+C, after the requests that it has were answered.

    A second signal ends it without waiting. The steps of its end:

        the application hears of it, and every response ends its connection    `end`
        connections are accepted, for a grace
        the address is closed, when all connections to it were accepted        `_stop_accepting`
        requests are answered; connections without one for the grace close     `_wait`
        the application ends
    """

    server_state: State

    def __init__(self, app: ASGIApp, drain_s: float, on_end: Callable[[int], None]) -> None:
        """
        Args:
            app: the application.
            drain_s: the most seconds that requests get when the server ends.
            on_end: is called when the server begins to end, with the number of requests in flight.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        config = uvicorn.Config(
            app,
            http=Connection,
            loop="auto",
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=max(16, min(_MOST_CONNECTIONS, files - _OTHER_FILES)),
            timeout_keep_alive=_KEEP_ALIVE,
        )
        super().__init__(config)
        self.server_state = State()
        self._on_end = on_end
        self._drain_s = drain_s
        self._grace_s = min(_GRACE_S, drain_s)
        self._ends_since = 0.0

    def end(self) -> None:
        """Begins to end. A second call ends the server without waiting."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._ends_since = time.monotonic()
        self.server_state.draining = True
        connections = self.server_state.open
        self._on_end(sum(connection.in_flight for connection in connections))
        for connection in connections:
            connection.drain()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Lets signals end the server. Uvicorn's own function would then end the process, too."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Ends all connections, and then the application."""
        if self.server_state.connections:
            while not self.force_exit and self._seconds() < self._grace_s:
                await asyncio.sleep(_LOOK_S)
        await self._stop_accepting(sockets or [])
        await self._wait()
        await self.lifespan.shutdown()

    def _seconds(self) -> float:
        """Returns the seconds since the server began to end."""
        return time.monotonic() - self._ends_since

    async def _stop_accepting(self, sockets: list[socket]) -> None:
        """Accepts the connections that are there, and closes the address."""
        for bound in sockets:
            # Without filters, a client that connects at this very moment may be reset.
            with suppress(OSError):
                drop_attempts(bound)
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(_HANDSHAKES_S)

        until = time.monotonic() + _ACCEPT_S
        while any(has_input(bound.fileno()) for bound in sockets):
            if self.force_exit or time.monotonic() > until:
                break
            # The event loop accepts them.
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for bound in sockets:
            bound.close()

    async def _wait(self) -> None:
        """Waits until requests are answered and connections are closed."""
        while True:
            # Connections that were just accepted are not in the state yet.
            await asyncio.sleep(_LOOK_S)
            for connection in self.server_state.open:
                connection.close_if_idle(self._grace_s)
            if self.force_exit or not (self.server_state.connections or self.server_state.tasks):
                return
            if self._seconds() >= self._drain_s:
                break

        tasks = list(self.server_state.tasks)
        if tasks:
            log.warning("%d requests had no answer within %g s", len(tasks), self._drain_s)
        for task in tasks:
            task.cancel()
