"""Routes that read their bodies themselves, for calls that must cost little."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from torchrec_priors.service.guard import BODY, STARTED
from torchrec_priors.service.problem import unknown_parameter

Endpoint = Callable[[Request], Awaitable[bytes]]

_JSON = (b"content-type", b"application/json")


class RawRoute(APIRoute):
    """A route whose function gets the request as it is, and returns the JSON of the response.

    FastAPI describes it in the OpenAPI document, but neither reads nor writes its bodies.

    Attributes:
        bodies: the models of its body; the first one is the usual one.
    """

    def __init__(
        self, path: str, endpoint: Endpoint, *, bodies: tuple[type[BaseModel], ...], **more: Any
    ) -> None:
        """
        Args:
            path: the path.
            endpoint: the function.
            bodies: the models of its body.
            more: what `APIRoute` takes.
        """
        super().__init__(path, endpoint, methods=["POST"], **more)
        self.bodies = bodies
        self.app = _called(endpoint)


def _called(endpoint: Endpoint) -> ASGIApp:
    """Returns the ASGI application of a function."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"]:
            for name in QueryParams(scope["query_string"]):
                raise unknown_parameter(name, ())
        content = await endpoint(Request(scope, receive))
        headers = [_JSON, (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


def body_of(request: Request) -> bytes:
    """Returns the body of a request, which the guard has read."""
    body: bytes = request.scope[BODY]
    return body


def started_at(request: Request) -> float:
    """Returns the value of `time.monotonic()` when a request came."""
    started: float = request.scope[STARTED]
    return started
