"""GET /v1/model: the model that answers. POST /v1/model:rollback: back to the previous version."""

import asyncio

from fastapi import FastAPI

from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.service.bodies import MOST_EVENTS, MOST_REQUESTS
from torchrec_priors.service.parts import Parts
from torchrec_priors.service.problem import ProblemError
from torchrec_priors.service.routes.documented import errors
from torchrec_priors.service.shapes import LimitsShape, ModelAnswer, ModelName, PriorShape
from torchrec_priors.service.versions import NoPreviousError, Served


def add(app: FastAPI, parts: Parts) -> None:
    """Adds the routes to the service."""

    @app.get("/v1/model", responses=errors(422, 503), tags=["model"])
    def model() -> ModelAnswer:
        """Describes the model: its version, heads, priors and event types."""
        with parts.versions.lease() as served:
            return _described(served, parts)

    @app.post("/v1/model:rollback", responses=errors(409, 422, 503), tags=["model"])
    async def rollback() -> ModelName:
        """Goes back to the previous version, if it is in memory."""
        # The versions wait for threads that use them.
        return ModelName(name=parts.model_name, version=await asyncio.to_thread(_rollback, parts))


def _rollback(parts: Parts) -> str:
    """Goes back to the previous version; returns its name.

    Raises:
        ProblemError: there is none (409).
    """
    try:
        if parts.following is not None:
            version = parts.following.rollback()
        else:
            version = parts.versions.rollback().name
    except NoPreviousError as error:
        raise ProblemError(409, str(error), code="no_previous") from None
    parts.metrics.swap("rolled_back")
    return version


def _described(served: Served, parts: Parts) -> ModelAnswer:
    """Describes a version."""
    run = served.run
    manifest = run.data.manifest
    levels = run.model.tree.levels
    names = run.path.levers.names
    previous = parts.versions.previous
    return ModelAnswer(
        model=ModelName(name=parts.model_name, version=served.name),
        previous=None if previous is None else previous.name,
        loaded_at=served.loaded_at,
        checkpoint=run.checkpoint,
        data_set=manifest.name,
        items=run.data.items,
        users=run.data.users,
        events=list(manifest.events),
        heads=list(run.heads),
        priors=[
            PriorShape(
                name=str(level.name),
                groups=names.groups_with_heads(number),
                of_users=is_of_users(level),
                restricts_items=bool(level.restricts_items),
            )
            for number, level in enumerate(levels)
        ],
        limits=LimitsShape(
            body_bytes=parts.limits.body_bytes,
            deadline_ms=round(parts.limits.deadline_s * 1e3),
            requests=MOST_REQUESTS,
            events=MOST_EVENTS,
        ),
        keeps_events=parts.store is not None,
        following=None if parts.following is None else parts.following.described(),
    )
