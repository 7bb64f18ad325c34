"""Under load over HTTP, versions are swapped: no request fails, and every answer is the bulk answer of one version."""

import collections
import gc
import itertools
import json
import os
import socket
import statistics
import threading
import time
from contextlib import contextmanager
from functools import partial

import httpx
import pytest
import uvicorn
from published_models import bulk_answers, two_runs

from torchrec_priors import load_run
from torchrec_priors.publishing.publish import publish, publish_again
from torchrec_priors.service.app import make_app
from torchrec_priors.service.batcher import Batcher
from torchrec_priors.service.follow import Follower
from torchrec_priors.service.parts import Limits, Parts
from torchrec_priors.service.versions import Versions

_K = 7
_NAMES = ("one", "two", "three")  # two are in memory, so each swap to the next one loads
_CLIENTS = 4


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """A folder with three versions, and what bulk gives of each to each user."""
    folder = tmp_path_factory.mktemp("published") / "models"
    runs = two_runs(trained)
    expected = {}
    for name, run in zip(_NAMES, (*runs, runs[0]), strict=True):
        place = publish(run, folder, name).place
        with load_run(place) as loaded:
            expected[name] = bulk_answers(loaded, folder / "bulk.parquet", _K)
    assert expected["one"] != expected["two"]
    assert expected["one"] == expected["three"]
    return folder, expected


@contextmanager
def _serving(folder):
    """A service that follows the folder; yields its address and its follower."""
    gc.freeze()  # as the service does after its imports
    versions = Versions()
    parts = Parts(versions, Batcher(versions), limits=Limits(deadline_s=60.0))
    follower = Follower(
        folder, versions, partial(load_run), poll_s=0.05, on_swap=parts.metrics.swap
    )
    parts.following = follower
    follower.load_first()
    follower.start()

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(parts), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", follower
    finally:
        server.should_exit = True
        thread.join(30)
        follower.stop(30)
        assert versions.close(30)
        listening.close()
        gc.unfreeze()


def _until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _requests_during_swaps(models, requests, swaps):
    """Runs so many requests, and at least so many swaps meanwhile; returns what was measured."""
    folder, expected = models
    publish_again(folder, "one")
    users = sorted(expected["one"])
    numbers = itertools.count()
    answered = collections.Counter()
    seconds, wrong = [], []
    done = threading.Event()

    with _serving(folder) as (address, _):

        def ask():
            with httpx.Client(base_url=address, timeout=60) as client:
                # The load goes on until all swaps are through.
                while (number := next(numbers)) < requests or not done.is_set():
                    user = users[number % len(users)]
                    began = time.monotonic()
                    answer = client.post("/v1/recommend", json={"user": user, "k": _K})
                    seconds.append(time.monotonic() - began)
                    if answer.status_code != 200:
                        wrong.append((user, answer.status_code, answer.text))
                        continue
                    body = answer.json()
                    version = body["model"]["version"]
                    answered[version] += 1
                    found = [(item["item_id"], item["score"]) for item in body["items"]]
                    if found != expected[version][user]:
                        wrong.append((user, version, found))

        clients = [threading.Thread(target=ask, daemon=True) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        try:
            with httpx.Client(base_url=address, timeout=60) as client:
                for name in itertools.islice(itertools.cycle(("two", "three", "one")), swaps):
                    before = answered.total()
                    publish_again(folder, name)
                    _until(
                        lambda name=name: client.get("/v1/model").json()["model"]["version"] == name
                    )
                    _until(lambda before=before: answered.total() > before + requests // swaps // 2)
                assert client.get("/v1/model").json()["following"]["refused"] is None
                # A swap is counted a moment after its version answers.
                counted = f'torchrec_priors_swaps_total{{outcome="swapped"}} {swaps:.1f}'
                _until(lambda: counted in client.get("/metrics").text, 10)
        finally:
            done.set()
            for client in clients:
                client.join(120)

    assert not wrong, wrong[:3]
    assert answered.total() >= requests
    assert set(answered) == set(_NAMES)
    ordered = sorted(seconds)
    return {
        "requests": answered.total(),
        "of versions": dict(answered),
        "swaps": swaps,
        "median ms": 1e3 * statistics.median(ordered),
        "p99 ms": 1e3 * ordered[int(0.99 * len(ordered))],
        "most ms": 1e3 * ordered[-1],
    }


def _resources():
    threads = threading.active_count(), len(os.listdir("/proc/self/task"))
    return {"threads": threads[1], "files": len(os.listdir("/proc/self/fd"))}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_requests_during_swaps(models):
    print(json.dumps(_requests_during_swaps(models, 600, 6)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_swaps_leave_nothing_behind(models):
    """Threads and open files do not grow with the number of versions that were loaded."""
    folder, _ = models
    versions = Versions()
    follower = Follower(folder, versions, load_run)
    publish_again(folder, "one")
    follower.load_first()

    def swap(count):
        for name in itertools.islice(itertools.cycle(("two", "three", "one")), count):
            publish_again(folder, name)
            follower.check()
            with versions.lease() as served:
                assert served.name == name
        return _resources()

    before, after = swap(3), swap(6)
    assert versions.close(30)
    assert after == before


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_many_requests_during_many_swaps(models):
    print(json.dumps(_requests_during_swaps(models, 10_000, 20)))


@pytest.mark.slow
def test_a_rollback_over_http(models):
    folder, expected = models
    publish_again(folder, "one")
    user = min(expected["one"])
    with _serving(folder) as (address, _), httpx.Client(base_url=address, timeout=60) as client:

        def version():
            body = client.post("/v1/recommend", json={"user": user, "k": _K}).json()
            found = [(item["item_id"], item["score"]) for item in body["items"]]
            assert found == expected[body["model"]["version"]][user]
            return body["model"]["version"]

        refused = client.post("/v1/model:rollback")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_previous")
        publish_again(folder, "two")
        _until(lambda: version() == "two")
        assert client.post("/v1/model:rollback").json()["version"] == "one"
        time.sleep(0.2)  # four looks at the folder
        assert version() == "one"
        following = client.get("/v1/model").json()["following"]
        assert (following["published"], following["rolled_back"]) == ("two", True)
        publish_again(folder, "three")
        _until(lambda: version() == "three")
