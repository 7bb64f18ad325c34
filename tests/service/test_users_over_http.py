"""Events that are posted count from the next request on; a user who was forgotten has no past."""

import pytest
from service.over_http import same

from torchrec_priors import Event, UserContext
from torchrec_priors.serving.request import Request

TIME = 895_000_000_000


def test_posted_events_are_on_top_of_the_history(service):
    whole = service.run.recommend(user=9, k=20)
    posted = service.post_events(
        ("a", 9, 50, TIME + 2_000, "4 stars"), ("b", "9", "5", TIME + 1_000), ("a", 10, 7, TIME)
    )
    assert posted.json() == {"accepted": 3, "duplicates": 0, "trimmed": 0, "unknown": {}}

    # They are in the order of their times, not in the order in which they came.
    stored = [Event(5, TIME + 1_000), Event(50, TIME + 2_000, "4 stars")]
    answer = service.recommend(user=9, k=20)
    assert answer["state"] == "current"
    assert same(answer, service.run.recommend(user=9, session=stored, k=20))
    assert not same(answer, whole)
    with_session = service.recommend(user=9, session=[8], k=20)
    assert same(with_session, service.run.recommend(user=9, session=[*stored, 8], k=20))
    # A given history replaces all of this.
    given = service.recommend(user=9, history=[5, 50])
    assert given["state"] == "none"
    assert same(given, service.run.recommend(user=9, history=[5, 50]))

    together = [{"user": 10}, {"history": [5]}, {"user": "9"}, {"user": 12}]
    answers = service.call("POST", "/v1/recommend", {"requests": together}).json()["answers"]
    assert [one["state"] for one in answers] == ["current", "none", "current", "current"]
    expected = service.run.answer(
        [
            Request(UserContext(10, session=[Event(7, TIME)])),
            Request(UserContext(history=[5])),
            Request(UserContext(9, session=stored)),
            Request(UserContext(12)),
        ]
    )
    assert all(map(same, answers, expected))


def test_a_user_may_be_known_by_events_alone(service):
    service.post_events(("a", "new", 50, TIME), ("b", "new", "x", TIME), ("c", "new", 5, TIME, "y"))
    answer = service.recommend(user="new")
    assert answer["source"] == "model"
    assert answer["skipped"] == {"users": 1, "items": 1, "events": 1}


def test_events_may_be_posted_again(service):
    event = ("a", 9, 50, TIME, "4 stars")
    assert service.post_events(event).json()["accepted"] == 1
    again = service.post_events(event, ("b", 9, "nothing", TIME, "6 stars")).json()
    assert again == {
        "accepted": 1,
        "duplicates": 1,
        "trimmed": 0,
        "unknown": {"items": 1, "events": 1},
    }
    assert service.metric("torchrec_priors_events_total", outcome="accepted") == 2
    assert service.metric("torchrec_priors_events_total", outcome="duplicate") == 1


def test_409_for_an_event_id_with_other_content(service):
    service.post_events(("a", 9, 50, TIME))
    response = service.post_events(("b", 9, 5, TIME), ("a", 9, 51, TIME))
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "event_conflict"
    assert "event id 'a' of user '9'" in response.json()["error"]["message"]
    # Nothing of the call is stored.
    assert service.store.count("9") == 1


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"item": 5, "user": 9, "event_id": "a"}, "events.0.time: it is missing"),
        ({"item": 5, "user": 9, "event_id": "a", "time": 895_000_000}, "milliseconds since 1970"),
        (
            {"item": 5, "user": 9, "event_id": 7, "time": TIME},
            "events.0.event_id: it must be a text",
        ),
        ({"item": 5, "user": 9, "event_id": "a", "time": TIME, "x": 1}, "events.0.x: there is no"),
    ],
)
def test_invalid_events_are_rejected(service, event, says):
    response = service.call("POST", "/v1/events", {"events": [event]})
    assert response.status_code == 422
    assert says in response.json()["error"]["message"]


def test_without_the_store_users_have_the_history_of_the_data_set(service):
    service.post_events(("a", 9, 50, TIME))
    service.store.gone = True
    posted = service.post_events(("b", 9, 51, TIME))
    assert posted.status_code == 503
    assert posted.json()["error"]["code"] == "store_gone"
    assert int(posted.headers["retry-after"]) >= 1
    forgotten = service.call("DELETE", "/v1/users/9")
    assert forgotten.status_code == 503

    answer = service.recommend(user=9)
    assert answer["state"] == "unavailable"
    assert same(answer, service.run.recommend(user=9))
    assert service.recommend(history=[5])["state"] == "none"
    assert service.metric("torchrec_priors_state_unavailable_total") == 1
    page = service.call("GET", "/v1/users/9").json()
    assert (page["state"], page["events"], page["in_data_set"]) == ("unavailable", 0, True)
    assert service.call("GET", "/v1/users/new").status_code == 503


def test_the_store_is_asked_again_after_a_rest(service, monkeypatch):
    monkeypatch.setattr("torchrec_priors.service.context._REST_S", 0.0)
    service.post_events(("a", 9, 50, TIME))
    service.store.gone = True
    assert service.recommend(user=9)["state"] == "unavailable"
    service.store.gone = False
    assert service.recommend(user=9)["state"] == "current"


def test_a_slow_store_does_not_hold_requests_up(make_service):
    from torchrec_priors.service.parts import Limits

    service = make_service(limits=Limits(deadline_s=60.0, state_s=0.02))
    service.store.gate.clear()
    assert service.recommend(user=9)["state"] == "unavailable"
    # For a while, it is not even asked.
    service.store.gate.set()
    assert service.recommend(user=9)["state"] == "unavailable"


def test_a_user_can_be_forgotten(service):
    service.post_events(("a", 9, 50, TIME))
    gone = service.call("DELETE", "/v1/users/9").json()
    assert gone == {"user": "9", "forgotten": True, "changed": True}
    assert service.call("DELETE", "/v1/users/9").json()["changed"] is False

    answer = service.recommend(user=9)
    assert (answer["source"], answer["state"]) == ("popularity", "current")
    assert same(answer, service.run.recommend(history=[]))
    page = service.call("GET", "/v1/users/9").json()
    assert (page["forgotten"], page["in_data_set"], page["history"], page["groups"]) == (
        True,
        True,  # the data set still has the user
        [],
        {},
    )
    assert page["interactions"] == 0
    service.post_events(("a", 9, 5, TIME))
    assert same(service.recommend(user=9), service.run.recommend(history=[Event(5, TIME)]))


def test_the_page_of_a_user(service):
    service.post_events(("a", 9, 50, TIME, "4 stars"), ("b", 9, "x", TIME + 1))
    page = service.call("GET", "/v1/users/9").json()
    whole = service.run.find_user("9")
    assert (page["user"], page["version"], page["state"]) == ("9", "v1", "current")
    assert (page["interactions"], page["events"]) == (len(whole.items), 2)
    assert page["groups"]["gender"] in (["M"], ["F"])
    *_, last, known, unknown = page["history"]
    row = int(whole.items[-1])
    assert last == {
        "item_id": service.run.catalogue.item_id(row),
        "title": service.run.catalogue.title(row),
        "time": int(whole.columns["timestamps"][-1]),
        "event": service.run.data.manifest.events[whole.columns["events"][-1]],
        "source": "data_set",
    }
    title = f"Café {50} (1997)"
    assert known == {
        "item_id": 50, "title": title, "time": TIME, "event": "4 stars", "source": "events"
    }  # fmt: skip
    assert (unknown["item_id"], unknown["title"]) == ("x", "")

    newest = service.call("GET", "/v1/users/9?limit=1").json()["history"]
    assert newest == [unknown]
    nobody = service.call("GET", "/v1/users/nobody")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "unknown_user")
    service.post_events(("a", "a/b c", 50, TIME))
    assert service.call("GET", "/v1/users/a%2Fb%20c").json()["user"] == "a/b c"
    assert service.call("GET", "/v1/users/9?limit=0").status_code == 422


def test_a_service_without_a_store(make_service):
    service = make_service(store=None)
    assert service.recommend(user=9)["state"] == "none"
    for response in (service.post_events(("a", 9, 5, TIME)), service.call("DELETE", "/v1/users/9")):
        assert response.status_code == 404
        assert "--state" in response.json()["error"]["message"]
    assert service.call("GET", "/v1/users/9").json()["state"] == "none"
    assert service.call("GET", "/v1/model").json()["keeps_events"] is False
