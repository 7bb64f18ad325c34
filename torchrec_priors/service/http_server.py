"""Uvicorn in this process: its limits, and how it ends."""

import asyncio
import math
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket

import uvicorn
from starlette.types import ASGIApp

from torchrec_priors.service.connections import Connection

_KEEP_ALIVE = 75  # seconds that a connection may be idle; more than load balancers usually keep it
_MOST_CONNECTIONS = 4096
_OTHER_FILES = 256  # open files that are not connections
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HttpServer(uvicorn.Server):
    """A server that ends on SIGTERM or Ctrl+C, after the requests that it has were answered.

    A second signal ends it without waiting.
    """

    def __init__(self, app: ASGIApp, drain_s: float, on_end: Callable[[], None]) -> None:
        """
        Args:
            app: the application.
            drain_s: the most seconds that requests in flight get when the server ends.
            on_end: is called when the server begins to end.
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
            timeout_graceful_shutdown=math.ceil(drain_s),
        )
        super().__init__(config)
        self._on_end = on_end

    def end(self) -> None:
        """Begins to end: takes no new connections, and answers the requests in flight."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._on_end()

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
        await super().shutdown(sockets)
        # Uvicorn leaves this out if it does not wait, and then reports an application that is cut.
        if self.force_exit:
            await self.lifespan.shutdown()
