"""POST /v1/recommend: what a body says reaches the model, and the answer is the model's to the last bit."""

import json

import pytest
from service.over_http import same

from torchrec_priors import Event, Levers, Request, UserContext
from torchrec_priors.service.answers import many_answers, one_answer
from torchrec_priors.service.batcher import Batched
from torchrec_priors.service.context import Asked
from torchrec_priors.service.versions import Served
from torchrec_priors.serving.request import Answer, Recommendation

TIME = 890_000_000_000

# Bodies, and the requests that they are.
BODIES = [
    ({"user": 9}, Request(UserContext(9))),
    ({"user": "9", "k": 3}, Request(UserContext("9"), 3)),
    (
        {"user": 10, "session": [5, {"item": "7", "time": TIME, "event": "4 stars"}]},
        Request(UserContext(10, session=[5, Event("7", TIME, "4 stars")])),
    ),
    (
        {"user": 9, "history": [{"item": 5}, 50], "k": 12},
        Request(UserContext(9, history=[Event(5), 50]), 12),
    ),
    (
        {"history": [5, 50, 7], "levers": {"boost": {"Drama": 3}, "mute": ["short-term"]}},
        Request(
            UserContext(history=[5, 50, 7]), levers=Levers(boost={"Drama": 3.0}, mute=["short-term"])
        ),
    ),
    (
        {"history": [5], "levers": {"only": ["Comedy", "Drama"], "at_least": {"Drama": 0.9}}},
        Request(
            UserContext(history=[5]),
            levers=Levers(only=["Comedy", "Drama"], at_least={"Drama": 0.9}),
        ),
    ),
    (
        {"history": [5, 50], "groups": {"gender": "F"}},
        Request(UserContext(history=[5, 50], groups={"gender": "F"})),
    ),
    (
        {"history": [5], "allow": [8, "9", 10, "x"], "deny": [9, "y", "z"]},
        Request(UserContext(history=[5]), allow=[8, "9", 10, "x"], deny=[9, "y", "z"]),
    ),
    (
        {"user": "new", "history": ["a", 5], "session": [{"item": 7, "event": "z"}], "groups": {"x": ["y"]}},
        Request(
            UserContext(
                "new", history=["a", 5], session=[Event(7, event="z")], groups={"x": ["y"]}
            )
        ),
    ),
    ({}, Request(UserContext())),
    ({"user": "new"}, Request(UserContext("new"))),
    ({"history": []}, Request(UserContext(history=[]))),
]  # fmt: skip


@pytest.mark.parametrize("explain", [False, True])
def test_answers_are_those_of_the_run(service, explain):
    found = service.run.answer([request for _, request in BODIES])
    more = {"explain": True} if explain else {}
    bodies = [{**body, **more} for body, _ in BODIES]
    responses = service.calls([("POST", "/v1/recommend", body) for body in bodies])
    for body, response, answer in zip(bodies, responses, found, strict=True):
        assert response.status_code == 200, response.text
        assert same(response.json(), answer, explain=explain), body
        assert response.json()["model"] == {"name": "films", "version": "v1"}

    together = service.call("POST", "/v1/recommend", {"requests": bodies}).json()
    assert together["model"] == {"name": "films", "version": "v1"}
    for answer, expected in zip(together["answers"], found, strict=True):
        assert same(answer, expected, explain=explain)


def test_the_kinds_of_answers(service):
    known, unknown = service.recommend(user=9), service.recommend(user="new", k=2)
    assert (known["source"], known["skipped"], known["short"]) == ("model", {}, [])
    assert (unknown["source"], unknown["skipped"]) == ("popularity", {"users": 1})
    skipped = service.recommend(history=["a", 5], allow=[9, "b"], deny=["c", "d"])["skipped"]
    assert skipped == {"items": 1, "allow": 1, "deny": 2}
    few = {"history": [5], "allow": list(range(1, 13))}
    assert service.recommend(**few, levers={"at_least": {"Drama": 1.0}})["short"] == ["Drama"]
    timing = known["timing_ms"]
    assert 0 < timing["computed"] <= timing["total"]
    assert timing["queued"] >= 0


def test_one_of_several_requests_may_be_rejected(service):
    asked = [{"user": 9}, {"user": 9, "k": 151}, {"user": 9, "levers": {"only": ["Comdy"]}}]
    response = service.call("POST", "/v1/recommend", {"requests": [*asked, {"user": 10}]})
    first, large, unknown, last = response.json()["answers"]
    assert same(first, service.run.recommend(user=9))
    assert same(last, service.run.recommend(user=10))
    assert large["error"]["code"] == "invalid"
    assert "k = 151 must be from 1 to the 150 items" in large["error"]["message"]
    assert "did you mean 'Comedy'?" in unknown["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"user": "u"}, "no user 'u'"),
        ({"history": [5, "x"]}, "no item 'x'"),
        ({"history": [5], "groups": {"gender": "x"}}, "groups: 'gender'"),
        ({"history": [5], "deny": ["x"]}, "deny: 1 of 1 items are not in"),
        ({}, "history is empty"),
    ],
)
def test_a_strict_request_is_rejected(service, body, says):
    assert service.recommend(**body)["items"]
    response = service.call("POST", "/v1/recommend", {**body, "strict": True})
    assert response.status_code == 422
    assert says in response.json()["error"]["message"]


def test_any_text_is_safe_in_json():
    text = '"\\</script>\u2028é\U0001f600\x00\ud800'
    score = 0.1 + 0.2
    item = Recommendation(text, text, score, text, {text: -score}, text, -score)
    batched = Batched([Answer([item], score_name=text)], Served(text, None, 0.0), 0.0, 0.0, 1)
    asked = Asked(Request(UserContext()), "none", True)
    for content in (
        one_answer(batched.outcomes[0], asked, batched, text, 0.0),
        many_answers([asked], batched, text, 0.0),
    ):
        assert content.isascii()
        read = json.loads(content)
        answer = read.get("answers", [read])[0]
        assert answer["score_name"] == text
        found = answer["items"]
        assert found == [
            {
                "item_id": text,
                "title": text,
                "score": score,
                "head": text,
                "reason": text,
                "head_score": -score,
                "head_scores": {text: -score},
            }
        ]
        assert read["model"] == {"name": text, "version": text}
