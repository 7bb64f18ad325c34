"""What a service answers while it ends."""

import asyncio
import json

import httpx

BODY = json.dumps({"user": 9}).encode()


def test_new_requests_are_refused_except_for_health_and_metrics(make_service):
    service = make_service(token="a" * 32)
    service.parts.draining = True
    for path in ("/health/live", "/v2/health/live"):
        assert service.call("GET", path).status_code == 200
    metrics = service.call("GET", "/metrics", headers={"Authorization": "Bearer " + "a" * 32})
    assert metrics.status_code == 200
    assert "\ntorchrec_priors_ready 0.0\n" in metrics.text
    for path in ("/health/ready", "/v2/health/ready"):
        response = service.call("GET", path)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
    for method, path in (
        ("POST", "/v1/recommend"),
        ("POST", "/v1/events"),
        ("POST", "/v2/models/films/infer"),
        ("GET", "/v1/model"),
        ("GET", "/v1/items?q=star"),
    ):
        response = service.call(method, path, {} if method == "POST" else None)
        assert response.status_code == 503, path
        assert response.headers["retry-after"] == "1"
        assert "the service ends: try again" in response.text
    for route in ("/v1/recommend", "/v2/models/{name}/infer", "/v1/items"):
        assert service.metric("torchrec_priors_requests_total", route=route, status="503") == 1
    assert service.metric("torchrec_priors_requests_total", route="other", status="503") is None


def test_a_request_that_had_begun_is_answered_and_the_body_of_a_new_one_is_read(service):
    read = []

    async def body(begins_before):
        if begins_before:
            service.parts.draining = True
        for part in (BODY[:3], BODY[3:]):
            read.append(part)
            yield part

    async def ask(begins_before):
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/recommend", content=body(begins_before))

    async def both():
        return [(await ask(begins_before)).status_code for begins_before in (True, False)]

    assert service.do(asyncio.wait_for(both(), 60)) == [200, 503]
    # A connection that is closed before its body was read would be reset.
    assert b"".join(read) == 2 * BODY
