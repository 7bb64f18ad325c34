"""The Open Inference Protocol: metadata, health, and answers that are those of the run."""

import json

import pytest


def infer(service, *tensors, **more):
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data}
        for name, data in tensors
    ]
    return service.call("POST", "/v2/models/films/infer", {"inputs": inputs, **more})


def tensors(response):
    assert response.status_code == 200, response.text
    return {one["name"]: one for one in response.json()["outputs"]}


def test_users_and_histories_are_answered_as_by_the_run(service):
    run = service.run
    history = json.dumps([5, {"item": 50, "event": "4 stars"}])
    response = infer(service, ("user", ["9", "new", ""]), ("history", ["", "", history]), id="i")
    found = tensors(response)
    answer = response.json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("films", "v1", "i")
    assert found["item_id"]["shape"] == [3, 10]
    assert found["count"]["data"] == [10, 10, 10]

    from torchrec_priors import Event

    expected = [
        *run.recommend(user=9),
        *run.recommend(user="new"),
        *run.recommend(history=[5, Event(50, event="4 stars")]),
    ]
    assert found["item_id"]["data"] == [str(item.item_id) for item in expected]
    assert found["score"]["data"] == [item.score for item in expected]
    assert found["head"]["data"] == [item.head for item in expected]

    session = tensors(infer(service, ("user", ["9"]), ("session", ["[5]"])))
    assert session["score"]["data"] == [item.score for item in run.recommend(user=9, session=[5])]


def test_parameters_and_outputs_can_be_chosen(service):
    k = service.run.data.items
    found = tensors(
        infer(service, ("user", ["9"]), parameters={"k": k}, outputs=[{"name": "count"}])
    )
    assert set(found) == {"count"}
    (count,) = found["count"]["data"]
    assert count < k  # the items of the history are not recommended
    whole = tensors(infer(service, ("user", ["9"]), parameters={"k": k}))
    assert whole["item_id"]["shape"] == [1, k]
    assert set(whole["item_id"]["data"][count:]) == {""}
    assert set(whole["score"]["data"][count:]) == {0.0}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([("user", ["1"]), ("user", ["2"])], "user is given twice"),
        ([("user", ["1"]), ("history", ["[]", "[]"])], "different numbers of rows"),
        ([("session", ["[]"])], "no user and no history"),
        ([("history", ["[1"])], "row 0 of history"),
        ([("history", ["[1.5]"])], "row 0 of history"),
        ([("item", ["1"])], "inputs.0.name"),
    ],
)
def test_wrong_tensors_are_rejected(service, inputs, says):
    response = infer(service, *inputs)
    assert response.status_code == 422
    # In this protocol, an error is a text.
    assert says in response.json()["error"]


def test_rejected_rows_and_wrong_shapes(service):
    response = infer(service, ("user", ["9", "new"]), parameters={"strict": True})
    assert (response.status_code, response.json()["error"][:6]) == (422, "row 1:")
    wrong = {"name": "user", "datatype": "BYTES", "shape": [2], "data": ["9"]}
    response = service.call("POST", "/v2/models/films/infer", {"inputs": [wrong]})
    assert "give the shape [1] or [1, 1]" in response.json()["error"]
    nested = {"name": "user", "datatype": "BYTES", "shape": [1, 1], "data": [["9"]]}
    assert tensors(service.call("POST", "/v2/models/films/infer", {"inputs": [nested]}))


def test_metadata_and_health(service):
    assert service.call("GET", "/v2").json()["name"] == "torchrec-priors"
    model = service.call("GET", "/v2/models/films").json()
    assert (model["name"], model["versions"]) == ("films", ["v1"])
    assert [one["name"] for one in model["inputs"]] == ["user", "history", "session"]
    assert service.call("GET", "/v2/health/live").json() == {"live": True}
    assert service.call("GET", "/v2/health/ready").json() == {"ready": True}
    assert service.call("GET", "/v2/models/films/ready").json() == {"name": "films", "ready": True}
    for method, path in (
        ("GET", "/v2/models/x"),
        ("GET", "/v2/models/x/ready"),
        ("POST", "/v2/models/x/infer"),
        ("POST", "/v2/models/%7Bname%7D/infer"),
    ):
        response = service.call(method, path, {} if method == "POST" else None)
        assert response.status_code == 404, path
        assert "the model is 'films'" in response.json()["error"]
    service.parts.draining = True
    for path in ("/v2/health/ready", "/v2/models/films/ready"):
        assert service.call("GET", path).status_code == 503
    assert service.call("GET", "/v2/health/live").status_code == 200
