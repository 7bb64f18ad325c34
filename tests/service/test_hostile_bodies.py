"""Hostile bodies are rejected with a 4xx, and cost no memory."""

import http.client
import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from service.hostile_bodies import hostile_bodies
from service.running import call
from service.running import service as process

from torchrec_priors.service.bodies import EventsBody, read_body, read_recommend
from torchrec_priors.service.problem import ProblemError


def test_hostile_bodies_are_rejected():
    slowest = 0.0
    for body in hostile_bodies(700, large=1_000_000):
        began = time.thread_time()
        for read in (read_recommend, lambda raw: read_body(EventsBody, raw)):
            with pytest.raises(ProblemError) as caught:
                read(body)
            assert caught.value.status == 422, body[:80]
            assert len(caught.value.message) < 500
        slowest = max(slowest, time.thread_time() - began)
    assert slowest < 1.0


@pytest.mark.slow
def test_a_process_rejects_them_in_constant_memory(groups_run, tmp_path):
    with process("--run", groups_run, "--state", f"sqlite:{tmp_path}/s.sqlite") as service:
        port = service.port
        pid = service.processes[0].pid
        bodies = list(hostile_bodies(1_000))
        for body in bodies[:50]:
            assert 400 <= _status(port, body) < 500
        before = _resident(pid)
        for number, body in enumerate(bodies):
            path = ("/v1/recommend", "/v1/events", "/v2/models/x/infer")[number % 3]
            assert 400 <= _status(port, body, path) < 500, body[:80]
        assert _resident(pid) - before < 30_000_000
        status, answer = call(port, "POST", "/v1/recommend", {"user": 9, "timeout_ms": 60_000})
        assert (status, answer["source"]) == (200, "model")
        assert "Traceback" not in service.err()


def _status(port, body, path="/v1/recommend"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        # The service answers a body that is too large before it has come.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", path, body)
        response = connection.getresponse()
        error = json.loads(response.read())["error"]
        assert "Traceback" not in str(error)
        return response.status
    except ConnectionResetError:
        # It closed the connection while the body was still coming, and the answer was lost.
        assert len(body) > 1_000_000
        return 413
    finally:
        connection.close()


def _resident(pid):
    """The resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
