"""What happens to every request, before and after its route: limits, the token, errors, the log.

It calls the routes directly as ASGI, without the tasks and queues of Starlette's
`BaseHTTPMiddleware`, which cost more than the rest of a request.
"""

import asyncio
import hmac
import random
import re
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchrec_priors.service.problem import ProblemError, problem_of, unavailable

if TYPE_CHECKING:
    from torchrec_priors.service.parts import Parts

BODY = "torchrec_priors.body"
REQUEST_ID = "torchrec_priors.request_id"
STARTED = "torchrec_priors.started"

# Paths that need no token: the page and its files (its calls send the token), the description of
# the service, and the health of the process.
_OPEN = ("/health/", "/v2/health/", "/console/")
_OPEN_PATHS = {"/", "/health", "/openapi.json", "/favicon.ico"}

# Paths that answer while the service ends: a supervisor must not take its end for a failure.
_WHILE_DRAINING = {
    "/health/live",
    "/health/ready",
    "/v2/health/live",
    "/v2/health/ready",
    "/metrics",
}

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_WITH_BODY = {"POST", "PUT", "PATCH", "DELETE"}
_GONE = 499  # in the log and the metrics: the client went away before the response

# Ids are no secrets. `os.urandom` would call the system for each of them.
_IDS = random.Random()


class ClientGoneError(Exception):
    """The client closed the connection before the response."""


class Guard:
    """An ASGI application around the routes."""

    def __init__(self, app: ASGIApp, parts: "Parts", routes: Sequence[BaseRoute]) -> None:
        """
        Args:
            app: answers requests.
            parts: the parts of the service.
            routes: the routes of the service.
        """
        self._app = app
        self._routes = routes
        self._parts = parts
        self._token = None if parts.token is None else parts.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        call = _Call(self._parts, scope, send)
        self._parts.metrics.in_flight += 1
        try:
            await self._answer(call, scope, receive)
        finally:
            self._parts.metrics.in_flight -= 1
            # What is refused before the routing is counted with its route, too.
            if call.is_refused:
                self._find_route(scope)
            call.end()

    def _find_route(self, scope: Scope) -> None:
        """Notes the route that a request would have taken, if there is one."""
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                scope["route"] = route
                return

    async def _answer(self, call: "_Call", scope: Scope, receive: Receive) -> None:
        try:
            # Requests whose headers came before the end began are answered.
            if self._parts.draining and scope["path"] not in _WHILE_DRAINING:
                # The system resets a connection that is closed before its body was read.
                call.received = len(await self._body(call.headers, receive))
                raise unavailable("the service ends: try again in a moment", code="not_ready")

            self._check(call.headers, scope)
            body = b""
            if scope["method"] in _WITH_BODY:
                given: bytes | None = scope.get(BODY)
                if given is None:
                    given = await self._body(call.headers, receive)
                elif len(given) > self._parts.limits.body_bytes:
                    raise self._too_large()
                body = given
            call.received = len(body)
            scope[BODY] = body
            call.is_refused = False
            await self._app(scope, _replayed(body, receive), call.send)
        except ClientGoneError:
            call.status = _GONE
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                call.trace = "".join(traceback.format_exception(error))
                problem = ProblemError(
                    500, "an unexpected error: the log of the service has it under this request id"
                )
            await call.fail(problem)

    def _check(self, headers: dict[bytes, bytes], scope: Scope) -> None:
        """Raises ProblemError if the client may not make this request."""
        host = headers.get(b"host", b"").decode("latin-1")
        hosts = self._parts.hosts
        if hosts is not None and _without_port(host) not in hosts:
            raise ProblemError(403, f"Host: the service has another name: call it {_listed(hosts)}")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in self._parts.origins and urlsplit(origin).netloc != host:
            raise ProblemError(
                403, "Origin: pages of this origin may not call: start the service with --cors"
            )

        path = scope["path"]
        if self._token is None or path in _OPEN_PATHS or path.startswith(_OPEN):
            return
        given = headers.get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise ProblemError(
                401,
                "Authorization: send 'Bearer TOKEN' with the token of the service",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Reads a body, up to its limits of bytes and seconds."""
        limits = self._parts.limits
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limits.body_bytes:
            raise self._too_large()
        parts = []
        size = 0
        try:
            async with asyncio.timeout(limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limits.body_bytes:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ProblemError(
                408,
                f"body: it did not come within {limits.body_s:g} s: send it faster",
                headers={"Connection": "close"},
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            f"body: it has more than {self._parts.limits.body_bytes:,} bytes: send less at once",
            headers={"Connection": "close"},
        )


class _Call:
    """One request: its id, its response and its line in the log."""

    def __init__(self, parts: "Parts", scope: Scope, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.received = 0
        self.status = 0
        self.trace: str | None = None
        self.is_refused = True
        self._parts = parts
        self._scope = scope
        self._send = send
        self._started = time.monotonic()
        self._code: str | None = None
        self._sent = 0

        given = self.headers.get(b"x-request-id", b"")
        self._id = (
            given if _REQUEST_ID.fullmatch(given) else f"{_IDS.getrandbits(96):024x}".encode()
        )
        scope[REQUEST_ID] = self._id.decode()
        scope[STARTED] = self._started

    async def send(self, message: Message) -> None:
        """Sends a part of the response; adds the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id), _NO_SNIFF]
            if b"cache-control" not in dict(headers):
                headers.append(_NO_STORE)
            message["headers"] = headers
        else:
            self._sent += len(message.get("body", b""))
        await self._send(message)

    async def fail(self, problem: ProblemError) -> None:
        """Sends a problem, if the response has not begun."""
        self._code = problem.code
        if self.status:
            # The server closes the connection, so the client notices.
            return
        body = problem.body(self._scope[REQUEST_ID], plain=self._scope["path"].startswith("/v2"))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        start = {"type": "http.response.start", "status": problem.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})

    def end(self) -> None:
        """Counts the request, and writes its line."""
        seconds = time.monotonic() - self._started
        # The path may have the id of a user, and a client may send any number of paths.
        route = getattr(self._scope.get("route"), "path", "other").replace(":path}", "}")
        status = self.status or _GONE
        self._parts.metrics.request(route, status, seconds)
        self._parts.log.request(
            request_id=self._scope[REQUEST_ID],
            method=self._scope["method"],
            route=route,
            status=status,
            seconds=seconds,
            received=self.received,
            sent=self._sent,
            code=self._code,
            trace=self.trace,
        )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives the body once, and then what the client does."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _without_port(host: str) -> str:
    """Returns the name of a host, without its port.

    >>> _without_port("localhost:8000"), _without_port("[::1]:8000"), _without_port("10.0.0.1")
    ('localhost', '[::1]', '10.0.0.1')
    """
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdigit() else host.lower()


def _listed(names: frozenset[str]) -> str:
    return " or ".join(sorted(names))
