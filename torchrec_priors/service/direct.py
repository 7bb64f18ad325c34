"""Ways around FastAPI for the calls that must cost little.

Of a request for recommendations, FastAPI's routing and its own entry would take more time than the
route itself. Every other call takes the usual way.
"""

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from torchrec_priors.service.routes.raw import RawRoute


class Direct:
    """An ASGI application that calls raw routes at once, and everything else as FastAPI does."""

    def __init__(self, app: ASGIApp, routes: list[RawRoute]) -> None:
        """
        Args:
            app: what answers everything else.
            routes: the routes. Their paths have no parameters, and their method is POST.
        """
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        route = self._routes.get(scope.get("path", ""))
        if route is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        await route.app(scope, receive, send)


class Entry:
    """The application of a server: FastAPI's middleware, without its search for telemetry.

    It is also without FastAPI's outermost layer, which answers unexpected errors: the guard does.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        outermost = app.build_middleware_stack()
        assert isinstance(outermost, ServerErrorMiddleware)
        self._inside = outermost.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or a message about the life of the server."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        await self._inside(scope, receive, send)
