"""Heads for events on a small log: both ways of evaluating them, as commands, recomputed from the raw files."""

import json
import math

import pytest
from command_line import CONFIG, app
from independent import assert_by_heads_of_true_stars, recompute, recompute_groups
from run_files import logged

SMALL = [
    "model.dim=8",
    "encoder.layers=1",
    "training.steps=20",
    "training.evaluate_every=10",
    "training.batch=16",
]
MODELS = {"heads": [], "told": ["priors.adapters=vector", "negatives.catalogue_share=1"]}

LOGGED = (
    "entropy@10", "event_given/ndcg@10", "event_given/entropy@10", "gini@10", "coverage@10", "novelty@10",
    "new_interest/ndcg@10", "new_interest/entropy@10", "group/genre/Drama/ndcg@10",
)  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def run(request, small_data, tmp_path_factory):
    """A run with a head for every rating, or one that is told the rating in the same way."""
    folder = tmp_path_factory.mktemp("events") / "run"
    changes = [*SMALL, 'priors.tree=["rating"]', "priors.init_std=0.1", *MODELS[request.param]]
    app("train", "--config", CONFIG, "--data", small_data, "--run", folder, *changes)
    app("evaluate", "--run", folder, "--split", "test")
    return folder


@pytest.mark.slow
def test_both_ways_are_what_the_raw_files_and_predictions_say(run, small_raw):
    metrics = json.loads((run / "eval/test/metrics.json").read_text())
    unknown, told = (
        run / f"eval/test/{name}.parquet" for name in ("predictions", "predictions_event_given")
    )
    for prefix, predictions in (("", unknown), ("event_given/", told)):
        recomputed, users, _ = recompute(small_raw, predictions, "test", horizon=8)
        assert users == metrics["users"]
        for name, value in recomputed.items():
            assert metrics[prefix + name] == pytest.approx(value, abs=1e-6), prefix + name
    assert metrics["event_given/ndcg@10"] != metrics["ndcg@10"]
    assert_by_heads_of_true_stars(small_raw, told, "test", horizon=8)
    with pytest.raises(AssertionError):
        assert_by_heads_of_true_stars(small_raw, unknown, "test", horizon=8)


def test_groups_of_users_and_of_events_are_what_the_raw_files_say(run, small_raw):
    metrics = json.loads((run / "eval/test/metrics.json").read_text())
    recomputed = recompute_groups(
        small_raw, run / "eval/test/predictions.parquet", "test", horizon=8
    )
    assert {name.split("/")[1] for name in recomputed} == {"gender", "rating"}
    assert (
        recomputed["group/gender/F/users"] + recomputed["group/gender/M/users"] == metrics["users"]
    )
    for name, value in recomputed.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    assert {name.split("/")[1] for name in metrics if name.startswith("group/")} == {
        "genre", "rating", "age", "gender", "occupation",
    }  # fmt: skip


def test_training_logs_both_ways_entropy_and_new_interest_at_every_evaluation(run):
    lines = logged(run)
    evaluated = [line for line in lines if "validation/ndcg@10" in line]
    assert [line["step"] for line in evaluated] == [10, 20]
    for line in evaluated:
        for name in LOGGED:
            assert math.isfinite(line[f"validation/{name}"]), name
        assert not any(name.startswith("validation/group/gender/") for name in line)
    assert evaluated[0]["validation/entropy@10"] != evaluated[1]["validation/entropy@10"]
