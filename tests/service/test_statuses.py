"""Every status of the service, each with a message that says what to do, and never a trace."""

import asyncio
import json

import pytest

from torchrec_priors.errors import OutsideError
from torchrec_priors.service.parts import Limits

SMALL = Limits(body_bytes=500, body_s=0.05, deadline_s=60.0)


def failed(response, status, code, *says):
    """Checks the form of an error; returns its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    for part in says:
        assert part in error["message"], error["message"]
    assert "Traceback" not in response.text
    return error["message"]


def test_401_without_the_token(make_service):
    service = make_service(token="secret-ü")
    good = {"Authorization": "Bearer secret-ü".encode()}
    assert service.call("POST", "/v1/recommend", {"user": 9}, headers=good).status_code == 200
    for given in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "Basic c2VjcmV0"}):
        response = service.call("POST", "/v1/recommend", {"user": 9}, headers=given)
        failed(response, 401, "unauthorized", "Bearer TOKEN")
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/model", "/metrics", "/v1/users/9", "/nowhere"):
        assert service.call("GET", path).status_code == 401, path
    assert service.call("GET", "/v2").status_code == 401
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/openapi.json"):
        assert service.call("GET", path).status_code == 200, path


def test_403_for_pages_of_other_sites_and_for_other_names_of_the_host(make_service):
    service = make_service(origins=("https://shop.example",), hosts=frozenset({"localhost"}))
    for origin in ("http://localhost", "https://shop.example"):
        response = service.call("GET", "/v1/model", headers={"Origin": origin})
        assert response.status_code == 200
    for origin in ("https://other.example", "null"):
        response = service.call("POST", "/v1/recommend", {}, headers={"Origin": origin})
        failed(response, 403, "forbidden", "Origin", "--cors")
    response = service.call("GET", "/v1/model", headers={"Host": "evil.example:80"})
    failed(response, 403, "forbidden", "Host", "localhost")

    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    allowed = service.call("OPTIONS", "/v1/recommend", headers=preflight)
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    without = make_service().call("OPTIONS", "/v1/recommend", headers=preflight)
    assert without.status_code == 403
    assert "access-control-allow-origin" not in without.headers


def test_404_and_405(service):
    failed(service.call("GET", "/nowhere"), 404, "not_found")
    failed(service.call("GET", "/v1/model/"), 404, "not_found")
    response = service.call("GET", "/v1/recommend")
    failed(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def sent(service, messages, headers=(), then=None):
    """Sends parts of a body; returns the status, the headers and the body of the response."""

    async def main():
        waiting = list(messages)
        found = []

        async def receive():
            if waiting:
                return {"type": "http.request", "body": waiting.pop(0), "more_body": True}
            if then is not None:
                return then
            await asyncio.sleep(10)

        async def send(message):
            found.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/recommend",
            "raw_path": b"/v1/recommend",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
        }
        await service.app(scope, receive, send)
        return found

    return service.do(main())


def test_408_for_a_body_that_does_not_come(make_service):
    service = make_service(limits=SMALL)
    start, body = sent(service, [b'{"user"'])
    assert start["status"] == 408
    assert "send it faster" in json.loads(body["body"])["error"]["message"]
    assert (b"connection", b"close") in start["headers"]


def test_413_for_a_large_body(make_service):
    service = make_service(limits=SMALL)
    large = b'{"history":[' + b"1," * 300
    failed(service.call("POST", "/v1/recommend", raw=large), 413, "too_large", "500 bytes")
    # Without a length, it is noticed while the body comes.
    start, _ = sent(service, [b"[" * 100] * 20)
    assert start["status"] == 413
    assert service.call("POST", "/v1/recommend", raw=b'{"user":9}').status_code == 200


def test_a_client_that_goes_away_while_it_sends_gets_nothing(service):
    assert sent(service, [b"{"], then={"type": "http.disconnect"}) == []
    assert service.log()[-1]["status"] == 499


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body: Invalid JSON"),
        (b"nonsense", "send JSON in UTF-8"),
        (b"[]", "body: it must be an object"),
        (b'{"k":0}', "k: it must be 1 or more"),
        (b'{"k":1001}', "k: it must be 1000 or less"),
        (b'{"k":"5"}', "k: it must be an integer"),
        (b'{"usr":5}', "usr: there is no such field: did you mean 'user'?"),
        (b'{"levers":{"boots":{}}}', "levers.boots: there is no such field: did you mean 'boost'?"),
        (b'{"levers":{"boost":{"Drama":NaN}}}', "levers.boost.Drama: it must be a finite number"),
        (b'{"levers":{"boost":{"Drama":0}}}', "levers.boost.Drama: it must be greater than 0"),
        (b'{"levers":{"only":[]}}', "only: it is empty"),
        (b'{"levers":{"only":["Comdy"]}}', "did you mean 'Comedy'?"),
        (b'{"history":[1.5]}', "history.0: it must be an id or an event"),
        (b'{"history":[5,true]}', "history.1: it must be an id or an event"),
        (b'{"history":[{"itm":5}]}', "history.0.item: it is missing"),
        (b'{"history":[{"item":5,"tim":5}]}', "history.0.tim: there is no such field: did you mean 'time'?"),
        (b'{"history":[{"item":5,"time":891000000}]}', "history.0.time: it must be 100000000000 or more, in milliseconds since 1970"),
        (b'{"history":[{"item":5,"time":"now"}]}', "history.0.time: it must be an integer, in milliseconds since 1970"),
        (b'{"history":[7,{"item":[5]}]}', "history.1.item: an id must be an integer or a text"),
        (b'{"session":[{"item":5,"event":7}]}', "session.0.event: it must be a text"),
        (b'{"groups":{"gender":["M",5]}}', "groups.gender.1: it must be a text"),
        (b'{"user":[5]}', "user: an id must be an integer or a text"),
        (b'{"user":18446744073709551616}', "user: it must be 18446744073709551615 or less"),
        (b'{"user":"a\\u0000"}', "user: it has a null character"),
        (b'{"user":""}', "user: it is empty"),
        (b'{"deny":5}', "deny: it must be a list"),
        (b'{"strict":1}', "strict: it must be true or false"),
        (b'{"k":5,"k":6}', "body: 'k' is given twice"),
        (b'{"user":5,"\\u0075ser":6}', "body: 'user' is given twice"),
        (b'{"k":151}', "k = 151 must be from 1 to the 150 items"),
        (b'{"requests":[]}', "requests: it has fewer than 1 entries"),
        (b'{"requests":[{},{"k":0}]}', "requests.1.k: it must be 1 or more"),
        (b'{"requests":[{}],"k":5}', "k: there is no such field: valid: requests, timeout_ms"),
        (b'{"groups":{"requests":5}}', "groups.requests: it must be a text or a list"),
        (b'{"user":"requests","x":5}', "x: there is no such field"),
    ],
)  # fmt: skip
def test_422_names_the_field_and_the_remedy(service, body, says):
    failed(service.call("POST", "/v1/recommend", raw=body), 422, "invalid", says)


def test_a_code_says_that_no_head_is_left(service):
    heads = service.call("GET", "/v1/model").json()["heads"]
    response = service.call("POST", "/v1/recommend", {"user": 9, "levers": {"mute": heads}})
    failed(response, 422, "no_head", "no head is left")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/items?limit=abc", "limit: it must be an integer"),
        ("/v1/items?limit=51", "limit: it must be 50 or less"),
        ("/v1/items?limit=1.5", "limit: it must be an integer"),
        ("/v1/users?q=" + "x" * 1_001, "q: it has more than 1000 characters: give fewer"),
        ("/v1/items?limt=5", "limt: there is no such parameter: did you mean 'limit'?"),
        ("/v1/users/9?q=5", "q: there is no such parameter: valid: limit"),
        ("/v1/model?x=1", "x: there is no such parameter: the path has none: leave it out"),
    ],
)
def test_422_names_the_parameter(service, path, says):
    failed(service.call("GET", path), 422, "invalid", says)


def test_a_query_of_a_path_without_parameters_is_refused(service):
    response = service.call("POST", "/v1/recommend?k=5", {"user": 9})
    failed(response, 422, "invalid", "k: there is no such parameter")
    assert service.call("GET", "/health/live?probe=1").status_code == 200


def test_422_for_more_than_a_list_may_have(service):
    for body, field in (
        ({"history": [1] * 10_001}, "history"),
        ({"requests": [{}] * 257}, "requests"),
        ({"user": "x" * 1_001}, "user"),
        ({"levers": {"boost": {str(n): 1 for n in range(101)}}}, "levers.boost"),
    ):
        response = service.call("POST", "/v1/recommend", body)
        failed(response, 422, "invalid", f"{field}: it has more than", "give fewer")


def test_429_when_the_queue_is_full(make_service):
    service = make_service(queue=1)
    service.gate.clear()

    async def main():
        import httpx

        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            def ask():
                return asyncio.ensure_future(client.post("/v1/recommend", content=b'{"user":9}'))

            first = ask()
            while service.parts.batcher.waiting or not service.parts.batcher._computing:
                await asyncio.sleep(0.001)
            second = ask()
            while not service.parts.batcher.waiting:
                await asyncio.sleep(0.001)
            third = await ask()
            service.gate.set()
            return await first, await second, third

    *others, full = service.do(main())
    assert [one.status_code for one in others] == [200, 200]
    failed(full, 429, "too_many_requests", "try again")
    assert int(full.headers["retry-after"]) >= 1


def test_500_says_nothing_about_the_error(service, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("the secret path /etc/secret")

    monkeypatch.setattr(type(service.run), "answer", broken)
    response = service.call("POST", "/v1/recommend", {"user": 9})
    message = failed(response, 500, "internal", "request id")
    assert "secret" not in message
    line = service.log()[-1]
    assert line["request_id"] == response.headers["x-request-id"]
    assert "ZeroDivisionError: the secret path" in line["trace"]


def test_503_while_the_service_starts_ends_or_has_lost_its_ranks(make_service, loaded, monkeypatch):
    starting = make_service()
    starting.parts.versions._current = None
    response = starting.call("POST", "/v1/recommend", {"user": 9})
    failed(response, 503, "not_ready", "being loaded", "try again")
    assert int(response.headers["retry-after"]) >= 1
    failed(starting.call("GET", "/health/ready"), 503, "not_ready")
    failed(starting.call("GET", "/v1/model"), 503, "unavailable")
    assert starting.call("GET", "/health/live").json() == {"status": "live"}

    service = make_service()
    assert service.call("GET", "/health/ready").json() == {"status": "ready"}
    service.parts.draining = True
    for path in ("/health/ready", "/v2/health/ready"):
        assert service.call("GET", path).status_code == 503
    failed(service.call("POST", "/v1/recommend", {"user": 9}), 503, "not_ready", "ends")

    def lost(*_):
        raise OutsideError("rank 1 did not answer")

    service = make_service()
    monkeypatch.setattr(type(loaded), "answer", lost)
    failed(service.call("POST", "/v1/recommend", {"user": 9}), 503, "unavailable", "rank 1")


def test_504_after_the_deadline(service):
    service.gate.clear()
    response = service.call("POST", "/v1/recommend", {"user": 9, "timeout_ms": 5})
    failed(response, 504, "late", "no answer within 0.005 s", "timeout_ms")
    service.gate.set()
    assert (
        service.call("POST", "/v1/recommend", {"user": 9, "timeout_ms": 9_000}).status_code == 200
    )


def test_a_request_whose_client_has_gone_away_is_not_computed(service):
    """The server cancels the task of a request when its connection ends (`connections.py`)."""
    service.gate.clear()

    async def main():
        parts = service.parts

        async def ask(sent):
            async def receive():
                return {"type": "http.request", "body": b'{"user":9}', "more_body": False}

            async def send(message):
                sent.append(message)

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/recommend",
                "raw_path": b"/v1/recommend",
                "query_string": b"",
                "headers": [(b"host", b"localhost")],
                "http_version": "1.1",
                "scheme": "http",
                "root_path": "",
            }
            await service.app(scope, receive, send)

        stays, goes = [], []
        first = asyncio.ensure_future(ask(stays))
        while parts.batcher.waiting or not parts.batcher._computing:
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(ask(goes))
        while not parts.batcher.waiting:
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        service.gate.set()
        await first
        assert (stays[0]["status"], goes) == (200, [])

    service.do(main())
    service.do(service.parts.batcher.drain(5))
    assert service.parts.batcher.counts.dropped == 1
    assert service.parts.batcher.counts.requests == 1
    assert sorted(line["status"] for line in service.log()) == [200, 499]
