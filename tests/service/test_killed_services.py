"""Every acknowledged event is stored exactly once, whenever the service or its Redis server is killed."""

import http.client
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from event_stream import check_stored
from redis_server import RedisServer
from running import call, service
from streaming_client import StreamingClient, post_events
from supervised import Supervised

from torchrec_priors.state.event import UserEvent

TOTAL = 50_000
KILLS = 20
# The recommended items depend on what the user did.
USER = "9"
ASKED = {"user": USER, "k": 10}


def campaign(
    client: StreamingClient,
    supervised: Supervised,
    uri: str,
    total: int,
    kills: int,
    redis: RedisServer | None,
) -> int:
    """Kills the service, and its Redis server if there is one, at random times of the stream.

    Returns:
        How often the Redis server was killed.
    """
    draws = random.Random(7)
    redis_kills = 0
    for nth, enough in enumerate(sorted(draws.sample(range(total * 9 // 10), kills))):
        if nth % 2:
            # Events are taken before the model is loaded, so others are killed while it is.
            client.hold(True)
            supervised.wait_until_ready()
            client.hold(False)
        # Each process takes some events before it is killed.
        client.wait_for(max(enough, sum(client.acknowledged) + 1))

        if redis is not None and nth % 4 == 1:
            redis.kill()
            client.wait_for_refusals(4)
            redis.start()
            client.wait_for(sum(client.acknowledged) + 1)
        supervised.kill()
        if redis is not None and nth % 4 == 3:
            redis.kill()
            redis.start()
        redis_kills += redis is not None and nth % 2

        found = check_stored(uri, total, client.acknowledged)
        print(f"kill {nth + 1} at {sum(client.acknowledged):,} events: {found}", flush=True)
        supervised.start()

    client.wait_for(total)
    return redis_kills


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("store", "total", "kills"),
    [
        pytest.param("sqlite", 1_000, 2, marks=pytest.mark.slow),
        pytest.param("sqlite", TOTAL, KILLS, marks=pytest.mark.campaign),
        pytest.param("redis", TOTAL, KILLS, marks=pytest.mark.campaign),
    ],
)
@pytest.mark.timeout(7200)
def test_a_service_keeps_what_it_acknowledged(
    groups_run: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    store: str,
    total: int,
    kills: int,
) -> None:
    server = request.getfixturevalue("redis") if store == "redis" else None
    uri = f"sqlite:{tmp_path / 'users.sqlite'}" if server is None else server.uri
    began = time.monotonic()
    supervised = Supervised(tmp_path, "--run", groups_run, "--state", uri)
    supervised.start()
    client = StreamingClient(supervised.port, total)
    try:
        redis_kills = campaign(client, supervised, uri, total, kills, server)
        client.close()
        supervised.wait_until_ready()
        assert supervised.end() == 0
        found = check_stored(uri, total, client.acknowledged)
    finally:
        client.close()
        supervised.close()

    assert (found.once, found.further) == (total, 0)
    assert supervised.kills == kills
    # Calls were in flight when the process was killed.
    assert client.counts["broken"]
    retries = client.counts["calls"] - client.counts["answered"]
    print(
        f"{store}: {total:,} events, {sum(client.acknowledged):,} acknowledged, {kills} kills of the "
        f"service, {redis_kills} of Redis, {retries:,} retries, {dict(client.counts)}, {found}, "
        f"{time.monotonic() - began:.0f} s; refusals: {dict(client.reasons)}"
    )


def _event(name: str, item: str) -> UserEvent:
    return UserEvent(name, USER, item, 1_700_000_000_000)


def _posted(port: int, event: UserEvent) -> tuple[int, str | None, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return post_events(connection, [event])
    finally:
        connection.close()


def _recommended(port: int, state: str) -> list[dict]:
    """The items for the user, from an answer with this state.

    A busy machine may not read the events in time, so an answer without them is asked for again.
    """
    until = time.monotonic() + 60
    while True:
        status, answer = call(port, "POST", "/v1/recommend", ASKED)
        assert status == 200, answer
        if answer["state"] == state:
            return answer["items"]
        assert answer["state"] == "unavailable", "only a service with its store says otherwise"
        assert time.monotonic() < until, "the service does not recover"
        time.sleep(0.05)


def _post_until_stored(port: int, event: UserEvent) -> None:
    until = time.monotonic() + 60
    while (posted := _posted(port, event))[0] == 503:
        assert time.monotonic() < until, "the service does not recover"
        time.sleep(0.05)
    assert posted[0] == 200, posted


@pytest.mark.slow
def test_a_service_without_its_redis_answers_from_the_base(
    groups_run: Path, redis: RedisServer
) -> None:
    arguments = ("--run", groups_run, "--state", redis.uri)
    with service(*arguments) as early:
        base = _recommended(early.port, "current")
        first = _event("first", base[0]["item_id"])
        _post_until_stored(early.port, first)
        with_first = _recommended(early.port, "current")
        assert with_first != base

        redis.kill()
        # A service that starts now does the same as one that has lost its store.
        with service(*arguments) as late:
            second = _event("second", base[1]["item_id"])
            for port in (early.port, late.port):
                status, retry_after, answer = _posted(port, second)
                assert status == 503
                assert int(retry_after or 0) >= 1
                assert answer["error"]["code"] == "store_gone"
                assert _recommended(port, "unavailable") == base
                assert call(port, "GET", "/health/ready")[0] == 200

            redis.start()
            assert _recommended(late.port, "current") == with_first
            _post_until_stored(late.port, second)
            with_both = _recommended(late.port, "current")
            assert with_both not in (base, with_first)
            assert _recommended(early.port, "current") == with_both


@pytest.mark.slow
def test_an_event_that_one_service_stores_is_in_the_next_answer_of_another(
    groups_run: Path, redis: RedisServer
) -> None:
    arguments = ("--run", groups_run, "--state", redis.uri)
    with service(*arguments) as one, service(*arguments) as other:
        for nth in range(3):
            before = _recommended(other.port, "current")
            _post_until_stored(one.port, _event(f"{nth}", before[0]["item_id"]))
            after = _recommended(other.port, "current")
            assert after != before
            assert before[0]["item_id"] not in [item["item_id"] for item in after]
