"""A connection of HTTP that neither a slow nor a talkative client can hold forever.

Uvicorn limits the time between two requests, but not the time of the first bytes, nor the time and
the size of the headers. It also lets a request run on after its client has gone, and closes idle
connections at once when the server ends, although a request may be under way on them.
"""

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from torchrec_priors.service.guard import BODY
from torchrec_priors.service.sockets import has_input

_HEADERS_WITHIN = 10.0  # seconds from the first byte, or from the connection, to the last header
_MOST_HEADERS = 1 << 16  # bytes


class State(ServerState):
    """What all connections of a server share.

    Attributes:
        draining: whether the server ends. Every request then is the last one of its connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draining = False

    @property
    def open(self) -> "list[Connection]":
        """The connections that are open now."""
        return [one for one in self.connections if isinstance(one, Connection)]


class Connection(HttpToolsProtocol):
    """A connection with limits for headers, whose requests end when the client goes."""

    server_state: State

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._alarm: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._idle_since = self.loop.time()

    @property
    def in_flight(self) -> int:
        """The number of requests that have come and are not answered."""
        # With several requests, `cycle` is the newest one, and `pipeline` has all but the oldest.
        if self.cycle is None or self.cycle.response_complete:
            return 0
        return 1 + len(self.pipeline)

    def drain(self) -> None:
        """Ends the connection with the answer to its request, if it has one."""
        self._idle_since = self.loop.time()
        # A client that has headers without `Connection: close` may send another request.
        if self.in_flight and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def close_if_idle(self, seconds: float) -> None:
        """Closes the connection if it has had no request for so many seconds."""
        has_begun = self._alarm is not None and self._header_bytes > 0
        if self.in_flight or has_begun or self.transport.is_closing():
            return
        if self.loop.time() - self._idle_since < seconds:
            return
        # The next request may be there, and this process was too busy to read it.
        if not has_input(self.transport.get_extra_info("socket").fileno()):
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if self._alarm is None and is_idle and self.timeout_keep_alive_task is None:
            # Line breaks before a request have stopped the keep-alive time.
            self._await_headers()
        # The headers are complete if nothing is awaited.
        if self._alarm is None:
            return
        self._header_bytes += len(data)
        if self._header_bytes > _MOST_HEADERS and not self.transport.is_closing():
            self.send_400_response(f"The headers have more than {_MOST_HEADERS} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._alarm is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        self._stop_alarm()
        super().on_headers_complete()
        if self.server_state.draining:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_alarm()
        super().connection_lost(exc)
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        task = self.loop.create_task(cycle.run_asgi(_called(app, cycle)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task = task

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._alarm = self.loop.call_later(_HEADERS_WITHIN, self._are_late)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _are_late(self) -> None:
        """Closes the connection, as its headers took too long."""
        self._alarm = None
        if not self.transport.is_closing():
            self.transport.close()


def _called(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """Returns an application that gets a body which is there, without waiting for messages.

    It ends without an error if it is cancelled because its client has gone.
    """

    async def called(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        # The connection does not read beyond larger bodies until they are received.
        if not cycle.more_body and len(cycle.body) <= HIGH_WATER_LIMIT:
            scope[BODY] = bytes(cycle.body)  # type: ignore[literal-required]
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not cycle.disconnected:
                raise

    return called
