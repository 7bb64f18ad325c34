"""Schemathesis calls the service as its OpenAPI document allows, and as it does not."""

import importlib.util

import pytest

if importlib.util.find_spec("schemathesis") is None:
    pytest.skip("schemathesis is not installed", allow_module_level=True)

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)


def _without_lifespan(app):
    """The application, without its start and end, which would come with each call."""

    async def called(scope, receive, send):
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for state in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{state}.complete"})

    return called


def _call_all(service, cases):
    """Makes generated calls of every operation; returns how many."""
    load_all_checks()
    schema = schemathesis.openapi.from_asgi("/openapi.json", _without_lifespan(service.app))
    operations = [result.ok() for result in schema.get_all_operations()]
    called = 0

    for operation in operations:
        for mode in schemathesis.GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=max(1, cases // (2 * len(operations))),
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def call(case):
                nonlocal called
                response = case.call(headers={"Host": "localhost"}, timeout=60)
                called += 1
                assert response.status_code < 500, response.text
                case.validate_response(
                    response,
                    checks=[
                        content_type_conformance,
                        response_headers_conformance,
                        response_schema_conformance,
                        status_code_conformance,
                    ],
                )

            try:
                call()
            except Unsatisfiable:
                # An operation without parameters has no wrong calls.
                assert mode.is_negative
    return called


def test_generated_calls_are_answered_as_described(service):
    assert _call_all(service, 200) > 50


@pytest.mark.campaign
def test_two_thousand_generated_calls(service):
    # Operations with few different calls use less than their share.
    assert _call_all(service, 5_000) > 2_000
