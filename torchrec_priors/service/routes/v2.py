"""The Open Inference Protocol, version 2, which clients of several model servers speak."""

from importlib.metadata import version

from fastapi import FastAPI
from starlette.requests import Request

from torchrec_priors.errors import UserError
from torchrec_priors.service.bodies import read_body
from torchrec_priors.service.parts import Parts
from torchrec_priors.service.problem import ProblemError, unavailable
from torchrec_priors.service.routes.documented import errors
from torchrec_priors.service.routes.raw import RawRoute, body_of
from torchrec_priors.service.routes.recommend import Recommending
from torchrec_priors.service.v2_bodies import (
    InferAnswer,
    InferBody,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    TensorShape,
    asked_of,
    tensors_of,
)
from torchrec_priors.serving.request import Answer

_PLATFORM = "torchrec_priors"


def add(app: FastAPI, parts: Parts, recommending: Recommending) -> None:
    """Adds the routes to the service."""
    _add_health(app, parts)

    @app.get("/v2", responses=errors(plain=True), tags=["open inference protocol"])
    async def server() -> ServerMetadata:
        """Describes the server."""
        return ServerMetadata(
            name="torchrec-priors", version=version("torchrec-priors"), extensions=[]
        )

    @app.get(
        "/v2/models/{name}",
        responses=errors(404, 422, 503, plain=True),
        tags=["open inference protocol"],
    )
    async def model(name: str) -> ModelMetadata:
        """Describes the model and its tensors."""
        _check_name(name, parts)
        with parts.versions.lease() as served:
            return ModelMetadata(
                name=parts.model_name,
                versions=[served.name],
                platform=_PLATFORM,
                inputs=[
                    TensorShape(name=one, datatype="BYTES", shape=[-1])
                    for one in ("user", "history", "session")
                ],
                outputs=[
                    TensorShape(name="item_id", datatype="BYTES", shape=[-1, -1]),
                    TensorShape(name="score", datatype="FP64", shape=[-1, -1]),
                    TensorShape(name="head", datatype="BYTES", shape=[-1, -1]),
                    TensorShape(name="count", datatype="INT32", shape=[-1]),
                ],
            )

    async def infer(request: Request) -> bytes:
        """Recommends items to users, or for histories.

        If one of the rows is rejected, the call is.
        """
        _check_name(request.path_params["name"], parts)
        body = read_body(InferBody, body_of(request))
        bodies = asked_of(body)
        _, batched = await recommending.answer(request, bodies, None)
        answers: list[Answer] = []
        for row, outcome in enumerate(batched.outcomes):
            if isinstance(outcome, UserError):
                raise ProblemError(422, f"row {row}: {outcome}")
            answers.append(outcome)
        assert batched.version is not None
        answer = InferAnswer(
            model_name=parts.model_name,
            model_version=batched.version.name,
            id=body.id,
            outputs=tensors_of(answers, bodies[0].k, body.outputs),
        )
        return answer.model_dump_json(exclude_none=True).encode()

    app.router.routes.append(
        RawRoute(
            "/v2/models/{name}/infer",
            infer,
            bodies=(InferBody,),
            response_model=InferAnswer,
            responses=errors(404, 408, 413, 422, 429, 503, 504, plain=True),
            tags=["open inference protocol"],
        )
    )


def _add_health(app: FastAPI, parts: Parts) -> None:
    @app.get("/v2/health/live", responses=errors(plain=True), tags=["open inference protocol"])
    async def live() -> Live:
        """Answers as long as the process works."""
        return Live(live=True)

    @app.get(
        "/v2/health/ready", responses=errors(503, plain=True), tags=["open inference protocol"]
    )
    async def ready() -> Ready:
        """Answers if the service takes requests."""
        _check_ready(parts)
        return Ready(ready=True)

    @app.get(
        "/v2/models/{name}/ready",
        responses=errors(404, 422, 503, plain=True),
        tags=["open inference protocol"],
    )
    async def model_ready(name: str) -> ModelReady:
        """Answers if the model takes requests."""
        _check_name(name, parts)
        _check_ready(parts)
        return ModelReady(name=parts.model_name, ready=True)


def _check_name(name: str, parts: Parts) -> None:
    """Raises ProblemError if the service has no model of this name (404)."""
    if name != parts.model_name:
        raise ProblemError(404, f"there is no such model: the model is '{parts.model_name}'")


def _check_ready(parts: Parts) -> None:
    """Raises ProblemError if the service takes no requests now (503)."""
    if parts.unready is not None:
        raise unavailable(f"{parts.unready}: try again in a moment", code="not_ready")
