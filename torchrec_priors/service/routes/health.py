"""Whether the service lives and answers, and its metrics."""

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from torchrec_priors.service.parts import Parts
from torchrec_priors.service.problem import unavailable
from torchrec_priors.service.routes.documented import errors
from torchrec_priors.service.shapes import Health

_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def add(app: FastAPI, parts: Parts) -> None:
    """Adds the routes to the service."""

    @app.get("/health/live", responses=errors(), tags=["health"])
    async def live() -> Health:
        """Answers as long as the process works. If it does not, start the process again."""
        return Health(status="live")

    @app.get("/health/ready", responses=errors(503), tags=["health"])
    async def ready() -> Health:
        """Answers if the service takes requests. If it does not, send it none for now."""
        if parts.unready is not None:
            raise unavailable(f"{parts.unready}: try again in a moment", code="not_ready")
        return Health(status="ready")

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: _TEXT, **errors()},
        tags=["health"],
    )
    async def metrics() -> Response:
        """Returns counters and histograms in Prometheus' format."""
        return Response(parts.metrics.text(), media_type=CONTENT_TYPE_LATEST)
