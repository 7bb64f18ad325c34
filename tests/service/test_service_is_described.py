"""GET /v1/model, /metrics, the log and the OpenAPI document say what the service does."""

import json
import logging

from fastapi.routing import APIRoute

from torchrec_priors.service.logs import JsonHandler, Lines
from torchrec_priors.service.routes.raw import RawRoute
from torchrec_priors.service.versions import Served


def test_the_model_is_described(service):
    model = service.call("GET", "/v1/model").json()
    assert model["model"] == {"name": "films", "version": "v1"}
    assert (model["items"], model["data_set"]) == (150, "movielens")
    assert model["heads"] == list(service.run.heads)
    assert [(one["name"], one["of_users"]) for one in model["priors"]] == [
        ("temporal", False),
        ("gender", True),
        ("genre", False),
    ]
    assert model["events"] == ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]
    assert (model["previous"], model["following"], model["keeps_events"]) == (None, None, True)
    assert model["limits"]["deadline_ms"] == 60_000


def test_a_rollback_goes_to_the_previous_version(service):
    nothing = service.call("POST", "/v1/model:rollback")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "no_previous")
    service.parts.versions.swap(Served("v2", service.run, 1.0))
    assert service.recommend(user=9)["model"]["version"] == "v2"
    assert service.call("GET", "/v1/model").json()["previous"] == "v1"
    assert service.call("POST", "/v1/model:rollback").json() == {"name": "films", "version": "v1"}
    assert service.recommend(user=9)["model"]["version"] == "v1"
    assert service.metric("torchrec_priors_swaps_total", outcome="rolled_back") == 1
    assert "torchrec_priors_model_info" in service.call("GET", "/metrics").text


def test_what_follows_a_folder_is_asked_for_the_rollback(make_service):
    class Following:
        def described(self):
            return {"folder": "models", "refused": None}

        def rollback(self):
            return "v0"

    service = make_service(following=Following())
    described = service.call("GET", "/v1/model").json()["following"]
    assert described == {"folder": "models", "refused": None}
    assert service.call("POST", "/v1/model:rollback").json()["version"] == "v0"


def test_metrics(service):
    service.parts.metrics.batch(1, 0.01)
    service.recommend(user=9)
    service.recommend(user=10)
    service.call("POST", "/v1/recommend", {"k": 0})
    service.call("GET", "/v1/users/9")
    service.call("GET", "/secret/path/of/a/user")
    text = service.call("GET", "/metrics").text
    route = 'route="/v1/recommend"'
    assert f'torchrec_priors_requests_total{{{route},status="200"}} 2.0' in text
    assert f'torchrec_priors_requests_total{{{route},status="422"}} 1.0' in text
    assert 'torchrec_priors_requests_total{route="other",status="404"} 1.0' in text
    assert 'route="/v1/users/{user}",status="200"' in text
    assert f"torchrec_priors_request_seconds_count{{{route}}} 3.0" in text
    assert "torchrec_priors_queue_seconds_count 2.0" in text
    assert "torchrec_priors_compute_seconds_count 1.0" in text
    assert 'torchrec_priors_batch_size_bucket{le="1.0"} 1.0' in text
    assert "torchrec_priors_queue_length 0.0" in text
    assert "torchrec_priors_ready 1.0" in text
    # The request for the metrics is in flight itself.
    assert "torchrec_priors_requests_in_flight 1.0" in text
    assert 'torchrec_priors_model_info{model="films",version="v1"} 1.0' in text
    assert 'torchrec_priors_answers_total{outcome="computed"} 2.0' in text
    assert 'torchrec_priors_user_state_cache_total{outcome="hit"} 0.0' in text
    assert "secret" not in text


def test_every_request_has_an_id_and_a_line_in_the_log(service):
    given = {"X-Request-Id": "shop-7/a:b"}
    assert service.call("GET", "/v1/users/9", headers=given).headers["x-request-id"] == "shop-7/a:b"
    for bad in ("x" * 129, 'a"b', "é", "a b", ""):
        made = service.call("GET", "/v1/model", headers={"X-Request-Id": bad.encode()})
        assert made.headers["x-request-id"] != bad
        assert len(made.headers["x-request-id"]) == 24
    service.call("POST", "/v1/recommend", {"k": 0})
    lines = service.log()
    assert len(lines) == 7
    first, *_, last = lines
    assert first["request_id"] == "shop-7/a:b"
    # Ids of users are not in the log.
    assert first["route"] == "/v1/users/{user}"
    assert (first["method"], first["status"], first["level"]) == ("GET", 200, "info")
    assert first["time"].endswith("Z")
    assert first["sent"] > 0 < first["ms"]
    assert (last["status"], last["code"], last["received"]) == (422, "invalid", len('{"k": 0}'))
    assert len({line["request_id"] for line in lines}) == 7


def test_messages_of_the_program_are_lines_of_the_log(service):
    logger = logging.getLogger("torchrec_priors.test")
    handler = JsonHandler(service.parts.log.lines)
    logger.addHandler(handler)
    try:
        logger.warning('two "words"\n%s', "é")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    warning, error = service.log()
    assert (warning["message"], warning["level"]) == ('two "words"\né', "warning")
    assert "ZeroDivisionError" in error["trace"]


def test_lines_that_nobody_reads_are_dropped_and_counted(monkeypatch):
    class Broken:
        def write(self, _):
            raise OSError

    lines = Lines(Broken())
    lines.write("a")
    lines.close()
    assert lines.dropped == 1
    monkeypatch.setattr("torchrec_priors.service.logs._MOST_LINES", 0)
    lines.write("b")
    assert lines.dropped == 2


def test_responses_are_neither_guessed_nor_kept(service):
    for response in (
        service.call("POST", "/v1/recommend", {"user": 9}),
        service.call("GET", "/nowhere"),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-type"] == "application/json"


def test_the_document_describes_every_route_status_and_body(service):
    document = service.call("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    routes = [one for one in service.app.routes if isinstance(one, APIRoute)]
    described = [one for one in routes if one.include_in_schema]
    assert len(described) >= 15
    for route in described:
        (method,) = route.methods
        path = route.path.replace(":path}", "}")
        operation = document["paths"][path][method.lower()]
        assert operation["description"], path
        plain = path.startswith("/v2")
        statuses = set(operation["responses"])
        assert {"200", "401", "403", "405", "500"} <= statuses, path
        if method == "POST" and isinstance(route, RawRoute):
            assert {"408", "413", "422"} <= statuses
            assert operation["requestBody"]["required"]
        for status, response in operation["responses"].items():
            assert response["description"], (path, status)
            if path == "/metrics" and status == "200":
                continue
            schema = response["content"]["application/json"]["schema"]
            assert schema, (path, status)
            if status != "200":
                name = "PlainError" if plain else "ErrorAnswer"
                assert schema == {"$ref": f"#/components/schemas/{name}"}, (path, status)

    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas
    assert schemas["AskedBody"]["additionalProperties"] is False
    assert schemas["RecommendBody"]["properties"]["k"]["maximum"] == 1_000
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_the_document_needs_no_other_site(service):
    for path in ("/docs", "/redoc"):
        assert service.call("GET", path).status_code == 404
