"""The app `serve` as a process: it starts, answers, and ends."""

import http.client
import json
import os
import re
import signal
import socket
import time

import pytest
import tiny
from running import call, service
from steady_clients import SteadyClients

from torchrec_priors import Request, UserContext, load_run
from torchrec_priors.apps import command, serve
from torchrec_priors.config import parse

SETTINGS = tiny.settings(
    model={"context": 20},
    priors={"tree": ["temporal:2", "genre"]},
    negatives={"per_set": 10},
    table={"init_std": 1.0},
    training={"batch": 8, "steps": 2},
)
BODIES = [
    {"user": 9},
    {"user": 9, "session": [5, {"item": 7, "time": 891_000_000_000}], "k": 3},
    {"history": [5, 50, 7], "levers": {"mute": ["Drama"], "boost": {"Comedy": 2.5}}},
    {"user": "nobody", "deny": [1, 2, 3]},
    {"user": 12, "levers": {"at_least": {"Comedy": 0.3}}, "k": 5, "explain": True},
]
REQUESTS = {"requests": [*BODIES, {"user": 9, "k": 100_000 // 100}]}


@pytest.fixture(scope="module")
def run(trained):
    return trained(parse(SETTINGS))


# Whether there is a run in a store is not checked before other options.
RUN = ("--run", "memory://r", "--state", "events.db")


def _refused(capsys, *arguments):
    """What the app prints about a mistake."""
    with pytest.raises(SystemExit) as ended:
        command.run(serve.serve, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not captured.out
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either --run"),
        ([*RUN, "--follow", "f"], "give either --run"),
        ([*RUN, "--cache-mb", "-1"], "--cache-mb must be at least 0"),
        ([*RUN, "--poll-s", "0"], "--poll-s must be above 0"),
        (["--run", "nowhere"], "nowhere"),
        ([*RUN, "--host", "0.0.0.0"], "--token-file FILE, or --open"),
        ([*RUN, "--host", "0.0.0.0", "--token-file", "nowhere"], "there is no file"),
        ([*RUN, "--queue", "0"], "--queue must be at least 1"),
        ([*RUN, "--batch", "0"], "--batch must be at least 1"),
        ([*RUN, "--wait-ms", "-1"], "--wait-ms must be at least 0"),
        ([*RUN, "--deadline-ms", "0"], "--deadline-ms must be at least 1"),
        ([*RUN, "--drain-s", "-1"], "--drain-s must be at least 0"),
        ([*RUN, "--max-body", "0"], "--max-body must be at least 1"),
        ([*RUN, "--threads", "0"], "--threads must be in [1, "),
        ([*RUN, "--cors", "shop.example"], "--cors: 'shop.example'"),
        ([*RUN, "--cors", "*"], "--cors: '*'"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, capsys):
    assert says in _refused(capsys, *arguments)


@pytest.mark.slow
def test_an_address_or_a_store_that_cannot_be_used_is_one_line(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port: {port} is in use" in _refused(capsys, "--run", run, "--port", port)
    wrong = _refused(capsys, "--run", run, "--port", 0, "--state", "mysql://localhost")
    assert "mysql" in wrong


def _shown(answer):
    """An answer as the service shows it."""
    return [
        {"item_id": item.item_id, "title": item.title, "score": item.score, "head": item.head}
        for item in answer
    ]


def _expected(run):
    """What a loaded run answers to `BODIES`."""
    from torchrec_priors.service.bodies import AskedBody
    from torchrec_priors.service.context import _asked

    bodies = [AskedBody.model_validate_json(json.dumps(body)) for body in BODIES]
    requests = [_asked(body, None, "none", time.monotonic() + 60).request for body in bodies]
    with load_run(run) as loaded:
        assert loaded.answer([Request(UserContext(9))])
        return [_shown(answer) for answer in loaded.answer(requests)]


def _answers(port):
    """What a service answers to `BODIES`, one by one and together."""
    alone = [call(port, "POST", "/v1/recommend", body) for body in BODIES]
    status, together = call(port, "POST", "/v1/recommend", REQUESTS)
    assert [status, *(status for status, _ in alone)] == [200] * (len(BODIES) + 1)
    *answers, error = together["answers"]
    assert "k = 1,000" in error["error"]["message"]
    for (_, one), other in zip(alone, answers, strict=True):
        assert one["items"] == other["items"]
    for item in answers[-1]["items"]:
        assert item.pop("reason").startswith("because ")
        assert item.pop("head_score") in item.pop("head_scores").values()
    return [answer["items"] for answer in answers]


@pytest.mark.slow
def test_a_service_answers_as_the_loaded_run_until_it_is_told_to_end(run, tmp_path):
    with service("--run", run, "--state", f"sqlite:{tmp_path / 'users'}") as started:
        port = started.port
        assert call(port, "GET", "/health/ready") == (200, {"status": "ready"})
        assert _answers(port) == _expected(run)
        assert call(port, "GET", "/health/ready", Host="shop.example")[0] == 403

        assert call(port, "GET", "/v1/model")[1]["keeps_events"]
        assert (tmp_path / "users").is_file()

        started.end()
        assert started.codes() == [0]
        with pytest.raises(ConnectionRefusedError):
            call(port, "GET", "/health/live")
        lines = [json.loads(line) for line in started.err().splitlines()]
        assert {line["level"] for line in lines} <= {"info", "warning"}
        # Nobody is connected, so there is nobody to wait for.
        ended = re.search(r"stopped after ([0-9.]+) s", lines[-1]["message"])
        assert ended is not None
        assert float(ended[1]) < 1.0


@pytest.mark.slow
def test_no_call_is_cut_off_when_a_service_ends(run):
    with service("--run", run, "--state", "none:") as started:
        port = started.port
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
            )
            clients = SteadyClients(port, {"user": 9, "k": 50}, threads=8)
            clients.wait_for(200, 100)
            started.end()

            # Whoever asks hears that the service ends, while it still answers.
            clients.wait_for(503, 1)
            assert call(port, "GET", "/health/ready")[0] == 503
            assert call(port, "GET", "/health/live")[0] == 200
            # What has begun before is answered with recommendations.
            slow.sendall(b'"user":9}')
            answer = http.client.HTTPResponse(slow)
            answer.begin()
            assert (answer.status, answer.getheader("Connection")) == (200, "close")
            assert len(json.loads(answer.read())["items"]) == 10

        clients.join()
        assert started.codes() == [0]
        messages = [json.loads(line)["message"] for line in started.err().splitlines()]

    assert clients.broken == []
    assert set(clients.statuses) == {200, 503}
    # Every client ended because nobody listens any more.
    assert clients.refused == 8
    # Every refusal says when to come back, and that the connection ends.
    assert clients.unannounced == []
    begins, ends = [text for text in messages if text.startswith("stop")]
    assert re.fullmatch(r"stopping: [1-9] requests in flight", begins)
    assert re.fullmatch(r"stopped after [0-9.]+ s", ends)


@pytest.mark.slow
def test_silent_and_greedy_clients_do_not_keep_a_service_alive(run):
    with service("--run", run, "--state", "none:", "--drain-s", 1) as started:
        port = started.port
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
            )
            # Headers without an end are refused, too.
            with socket.create_connection(("127.0.0.1", port), timeout=60) as greedy:
                greedy.sendall(b"GET /health/live HTTP/1.1\r\nX: " + b"a" * 100_000)
                assert greedy.recv(12) == b"HTTP/1.1 400"
            call(port, "GET", "/health/live")
            began = time.monotonic()
            started.end()
            assert started.codes() == [0]
        assert time.monotonic() - began < 20


@pytest.mark.slow
def test_two_ranks_answer_as_one_process(run):
    with service("--run", run, "--state", "none:", ranks=2) as started:
        assert _answers(started.port) == _expected(run)
        # Under a launcher, other apps say at once that PyTorch is being imported.
        assert "starting PyTorch" not in started.err()
        started.end()
        assert started.codes() == [0, 0]


@pytest.mark.slow
def test_a_dead_rank_ends_the_service(run):
    with service("--run", run, "--state", "none:", ranks=2) as started:
        port = started.port
        assert call(port, "POST", "/v1/recommend", BODIES[0])[0] == 200
        os.kill(started.processes[1].pid, signal.SIGKILL)
        assert started.codes() == [1, -signal.SIGKILL]
        errors = [line for line in started.err().splitlines() if line.startswith("error: ")]
        assert errors == ["error: rank 1 was lost in recommendations: start it again"]
        assert "Traceback" not in started.err()
