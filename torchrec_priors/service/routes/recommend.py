"""POST /v1/recommend: recommendations to one user, or to several users at once."""

import time
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.requests import Request

from torchrec_priors.errors import UserError
from torchrec_priors.service.answers import many_answers, one_answer
from torchrec_priors.service.batcher import Batched
from torchrec_priors.service.bodies import AskedBody, ManyBody, RecommendBody, read_recommend
from torchrec_priors.service.context import Asked, Contexts
from torchrec_priors.service.parts import LOADING, Parts
from torchrec_priors.service.problem import unavailable
from torchrec_priors.service.routes.documented import errors
from torchrec_priors.service.routes.raw import RawRoute, body_of, started_at
from torchrec_priors.service.shapes import ManyAnswer, OneAnswer
from torchrec_priors.serving.request import LateError


class Recommending:
    """Answers requests for recommendations, of all protocols."""

    def __init__(self, parts: Parts, contexts: Contexts) -> None:
        """
        Args:
            parts: the parts of the service.
            contexts: makes requests of bodies.
        """
        self._parts = parts
        self._contexts = contexts

    async def answer(
        self, request: Request, bodies: Sequence[AskedBody], timeout_ms: int | None
    ) -> tuple[list[Asked], Batched]:
        """Lets the model answer the requests of a call.

        Args:
            request: the call.
            bodies: its requests.
            timeout_ms: the milliseconds that the client waits; None for the usual time.

        Raises:
            ProblemError: the service does not answer now (503).
            UserError: levers are invalid.
            LateError: the deadline has passed.
            QueueFullError: too many requests wait.
        """
        parts = self._parts
        # A service that ends still answers what it has taken.
        if parts.versions.current is None:
            raise unavailable(f"{LOADING}: try again in a moment", code="not_ready")

        seconds = parts.limits.deadline_s if timeout_ms is None else timeout_ms / 1e3
        deadline = started_at(request) + seconds
        asked = await self._contexts.asked(bodies, deadline)
        # If the client goes away, the server cancels this task, and the batcher drops the requests.
        batched = await parts.batcher.submit([one.request for one in asked], deadline)
        parts.metrics.queue_seconds.observe(batched.queued_s)
        if batched.version is None:
            raise LateError(f"no answer within {seconds:g} s: give a longer timeout_ms, or retry")
        return asked, batched


def add(app: FastAPI, parts: Parts, recommending: Recommending) -> None:
    """Adds the route to the service."""
    name = parts.model_name

    async def recommend(request: Request) -> bytes:
        """Recommends items to one user, or to several users at once.

        The body is one request, or an object with a list `requests`.
        """
        body = read_recommend(body_of(request))
        many = isinstance(body, ManyBody)
        bodies: Sequence[AskedBody] = body.requests if isinstance(body, ManyBody) else [body]
        asked, batched = await recommending.answer(request, bodies, body.timeout_ms)

        seconds = time.monotonic() - started_at(request)
        if many:
            return many_answers(asked, batched, name, seconds)
        (outcome,) = batched.outcomes
        if isinstance(outcome, UserError):
            raise outcome
        return one_answer(outcome, asked[0], batched, name, seconds)

    route = RawRoute(
        "/v1/recommend",
        recommend,
        bodies=(RecommendBody, ManyBody),
        response_model=OneAnswer | ManyAnswer,
        responses=errors(408, 413, 422, 429, 503, 504),
        tags=["recommendations"],
    )
    app.router.routes.append(route)
