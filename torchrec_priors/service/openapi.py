"""The OpenAPI document of the service, with the bodies that routes read themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from torchrec_priors.service.routes.raw import RawRoute

_REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Makes the application's document when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for route in app.routes:
        if not isinstance(route, RawRoute):
            continue
        models = [(model, "validation") for model in route.bodies]
        refs, definitions = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
        schemas.update(definitions["$defs"])
        schema: dict[str, Any] = {"anyOf": list(refs.values())}
        if len(refs) == 1:
            (schema,) = refs.values()
        found["paths"][route.path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return found
