"""The web application: its routes, and what is around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import NoReturn

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from torchrec_priors.service.bodies import described_parameter
from torchrec_priors.service.context import Contexts
from torchrec_priors.service.direct import Direct
from torchrec_priors.service.guard import Guard
from torchrec_priors.service.openapi import describe
from torchrec_priors.service.parts import Parts
from torchrec_priors.service.problem import ProblemError, unknown_parameter
from torchrec_priors.service.routes import console, health, items, model, recommend, users, v2
from torchrec_priors.service.routes.raw import RawRoute

_DESCRIPTION = "Recommendations of a trained model, and the heads that explain them."
_MESSAGES = {404: "there is no such path", 405: "the path has no such method"}


def make_app(parts: Parts) -> FastAPI:
    """Makes the application of a service. It does not close the parts.

    Args:
        parts: what it is put together from.
    """
    contexts = Contexts(
        parts.store,
        count=parts.limits.stored_events,
        timeout=parts.limits.state_s,
        metrics=parts.metrics,
    )

    calls = users.Calls(parts.store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        contexts.close()
        calls.close()

    # FastAPI's pages that show the description load scripts from other sites, so they are off.
    app = FastAPI(
        title="torchrec-priors",
        version=version("torchrec-priors"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_check_query)],
        exception_handlers={
            HTTPException: _http_error,
            RequestValidationError: _invalid,
        },
    )
    # Routes are looked at in this order.
    recommending = recommend.Recommending(parts, contexts)
    recommend.add(app, parts, recommending)
    users.add(app, parts, calls)
    v2.add(app, parts, recommending)
    model.add(app, parts)
    health.add(app, parts)
    items.add(app, parts)
    console.add(app)
    describe(app)

    raw = [route for route in app.routes if isinstance(route, RawRoute) and "{" not in route.path]
    app.add_middleware(Direct, routes=raw)
    app.add_middleware(Guard, parts=parts, routes=app.routes)
    if parts.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=parts.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    parts.metrics.watch(parts)
    return app


async def _http_error(_: Request, error: Exception) -> NoReturn:
    """Turns an error of the routing into a problem, which the guard sends."""
    assert isinstance(error, HTTPException)
    message = _MESSAGES.get(error.status_code, str(error.detail))
    raise ProblemError(error.status_code, message, headers=error.headers)


async def _invalid(_: Request, error: Exception) -> NoReturn:
    """Turns an invalid parameter of a path or a query into a problem."""
    assert isinstance(error, RequestValidationError)
    raise ProblemError(422, described_parameter(error.errors()[0]))


async def _check_query(request: Request) -> None:
    """Raises ProblemError if a query has a parameter that its path does not have (422)."""
    if not request.url.path.startswith("/v1/"):
        return
    dependant: Dependant = request.scope["route"].dependant
    known = [parameter.alias for parameter in dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise unknown_parameter(name, known)
