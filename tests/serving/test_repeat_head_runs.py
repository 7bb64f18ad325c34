"""A run with a repeat head recommends items of the history by it alone, and people can steer it."""

import json

import habits
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from torchrec_priors.apps import evaluate
from torchrec_priors.errors import UserError
from torchrec_priors.retrieval.find import REPEAT
from torchrec_priors.serving.export import export
from torchrec_priors.serving.run import load_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return habits.prepared(tmp_path_factory.mktemp("shop"))


def _config(tree=(), **evaluation):
    return tiny.config(
        model={"horizon": 2},
        priors={"tree": list(tree)},
        negatives={"per_set": 64, "seen": False},
        loss={"gate": 1.0},
        repeats={"weight": 1.0},
        training={"steps": 40, "evaluate_every": 40, "learning_rate": 0.01},
        evaluation={"filter_seen": False, "batch": 16, **evaluation},
    )


@pytest.fixture(scope="module", params=[(), ("category",)], ids=["one head", "categories"])
def run(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny.train(_config(request.param), data, folder)
    return folder


def _seen(loaded, user):
    """The items of the context, and all items before it."""
    rows = loaded.find_user(user).items[-12:]
    return {loaded.catalogue.item_id(row) for row in rows.tolist()}


def test_seen_items_come_from_the_repeat_head_and_new_ones_from_the_others(run):
    with load_run(run) as loaded:
        assert loaded.heads[-1] == REPEAT
        for user in ("1", "7", "40"):
            seen = _seen(loaded, user)
            items = loaded.recommend(user=user, k=habits.ITEMS)
            assert len(items) == habits.ITEMS
            assert {item.item_id for item in items if item.head == REPEAT} == seen
            scores = [item.score for item in items]
            assert scores == sorted(scores, reverse=True)
            for item in items:
                assert (REPEAT in item.head_scores) == (item.head == REPEAT)
                assert item.head_scores[item.head] == pytest.approx(item.score)
            # Scores are log-probabilities. With several groups, each has a decision of its own.
            tolerance = 1e-5 if len(loaded.heads) == 2 else 0.1
            assert sum(np.exp(scores)) == pytest.approx(1, abs=tolerance)


def test_the_repeat_head_is_muted_chosen_and_boosted_by_its_name(run):
    with load_run(run) as loaded:
        seen = _seen(loaded, "3")
        whole = {item.item_id: item for item in loaded.recommend(user="3", k=habits.ITEMS)}
        new = loaded.recommend(user="3", k=habits.ITEMS, mute=[REPEAT])
        assert {item.item_id for item in new} == whole.keys() - seen
        again = loaded.recommend(user="3", k=habits.ITEMS, only=[REPEAT])
        assert {item.item_id for item in again} == seen
        boosted = loaded.recommend(user="3", k=habits.ITEMS, boost={REPEAT: 2.0})
        for item in boosted:
            change = np.log(2) if item.item_id in seen else 0.0
            assert item.score == pytest.approx(whole[item.item_id].score + change, abs=1e-5)
        allowed = sorted(seen)[:1]
        assert [item.item_id for item in loaded.recommend(user="3", k=2, allow=allowed)] == allowed
        with pytest.raises(UserError, match="'repeats': did you mean 'repeat'"):
            loaded.recommend(user="3", only=["repeats"])
        with pytest.raises(UserError, match=r"'xyz': valid: .*; repeat$"):
            loaded.recommend(user="3", mute=["xyz"])
        with pytest.raises(UserError, match="does not restrict items"):
            loaded.recommend(user="3", at_least={REPEAT: 0.5})


def test_it_learns_the_habit_that_one_head_does_not(run, data):
    evaluate.evaluate(run, evaluate.Split("test"))
    folder = run / "eval" / "test"
    found = json.loads((folder / "metrics.json").read_text())
    heads = pq.read_table(folder / "predictions.parquet")["heads"].to_pylist()
    assert {REPEAT} < {head for heads_of_user in heads for head in heads_of_user}

    plain = tiny.config(
        model={"horizon": 2},
        priors={"tree": []},
        negatives={"per_set": 64},
        training={"steps": 40, "evaluate_every": 40, "learning_rate": 0.01},
        evaluation={"filter_seen": False},
    )
    tiny.train(plain, data, run.parent / "plain")
    evaluate.evaluate(run.parent / "plain", evaluate.Split("test"))
    other = json.loads((run.parent / "plain" / "eval" / "test" / "metrics.json").read_text())
    assert found["ndcg@10"] > 1.2 * other["ndcg@10"]


def test_without_seen_items_in_lists_only_new_ones_are_ranked(run, data):
    evaluate.evaluate(
        run, evaluate.Split("test"), name="new", overrides=["evaluation.filter_seen=true"]
    )
    heads = pq.read_table(run / "eval" / "test-new" / "predictions.parquet")["heads"]
    assert REPEAT not in {head for heads_of_user in heads.to_pylist() for head in heads_of_user}


def test_an_export_says_that_it_cannot_hold_it(run, tmp_path):
    with load_run(run) as loaded, pytest.raises(UserError, match="repeat head"):
        export(loaded, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gate_is_asked_for_where_groups_are_compared(data, tmp_path):
    config = _config(["category"])
    config.loss.gate = 0.0
    with pytest.raises(UserError, match=r"repeats\.weight: .* set loss.gate=1"):
        tiny.train(config, data, tmp_path / "run")
