"""A program trains, evaluates and recommends as the commands do: with values, callbacks and without output."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pandas as pd
import pytest
import tiny

import torchrec_priors as tp
from torchrec_priors.api.config_source import config_of
from torchrec_priors.apps import evaluate
from torchrec_priors.common import progress
from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.settings.run_config import RunConfig

VALUES = tiny.settings(priors={"tree": ["temporal:2"]})


@pytest.fixture(scope="module")
def events():
    """What the callbacks of `run` were called with, by name."""
    return {"step": [], "evaluation": [], "checkpoint": []}


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory, events):
    folder = tmp_path_factory.mktemp("python") / "run"
    run = tp.train(
        VALUES,
        small_data,
        folder,
        on_step=events["step"].append,
        on_evaluation=events["evaluation"].append,
        on_checkpoint=events["checkpoint"].append,
        track=f"tensorboard:{folder.parent / 'board'}",
        progress=False,
    )
    with run:
        yield run


def test_callbacks(run, events):
    assert [step.step for step in events["step"]] == [1, 2, 3, 4]
    assert {step.steps for step in events["step"]} == {4}
    last = events["step"][-1]
    assert last.seconds_left == 0
    assert last.tokens_per_second > 0
    assert last.epoch == last.epochs > 0
    assert [found.step for found in events["evaluation"]] == [2, 4]
    assert events["evaluation"][0].best

    best = max(found.metrics["ndcg@10"] for found in events["evaluation"])
    assert run.summary["validation/ndcg@10"] == best
    for saved in events["checkpoint"]:
        assert saved.folder.parent == run.path / "checkpoints"
    assert events["checkpoint"][-1].folder.is_dir()


def test_curves_are_the_logged_lines(run, events):
    rows = run.curves().to_pylist()
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    assert losses == [step.loss for step in events["step"]]
    assert "crc32" not in rows[0]


def test_metrics_are_those_of_the_command(run):
    metrics = run.evaluate("test", progress=False)
    written = json.loads((metrics.folder / "metrics.json").read_text())
    assert {**written, "sha256": 0} == {**metrics, "sha256": 0}

    evaluate.evaluate(run.path, evaluate.Split.test, name="app")
    by_app = json.loads((run.path / "eval/test-app/metrics.json").read_text())
    different = {"seconds", "sha256", "predictions_sha256"}
    assert {k: v for k, v in by_app.items() if k not in different} == {
        k: v for k, v in written.items() if k not in different
    }


def test_metrics_as_a_data_frame(run):
    metrics = run.evaluate(
        "validation", name="diverse", changes={"evaluation.diversify": 0.1}, progress=False
    )
    frame = metrics.to_pandas().set_index("metric")["value"]
    assert frame["ndcg@10"] == metrics["ndcg@10"]
    assert "users" not in frame
    assert metrics["diversify"] == 0.1
    assert str(metrics).startswith(f"{run.path} on validation")
    assert len(metrics.predictions()) == metrics["users"]


def test_other_settings_do_not_replace_an_evaluation_without_a_word(run):
    run.evaluate("validation", name="kept", changes={"evaluation.diversify": 0.1}, progress=False)
    before = run.evaluate("validation", progress=False)
    with pytest.raises(UserError, match="other settings: keep it, and give this one a name"):
        run.evaluate("validation", changes={"evaluation.diversify": 0.1}, progress=False)
    again = run.evaluate("validation", progress=False)
    assert again["ndcg@10"] == before["ndcg@10"]


def test_recommendations(run):
    user = run.data.user_ids(run.data.row_groups[0])[0].as_py()
    answer = run.recommend(user=user, k=3)
    everybody = run.recommend_to_users(k=3, progress=False)
    assert everybody.column_names == ["user_id", "items", "scores", "heads"]
    assert len(everybody) == run.data.users
    (one,) = run.recommend_to_users([user], k=3, progress=False).to_pylist()
    assert one["items"] == [found.item_id for found in answer]


def test_an_opened_run_is_the_same(run):
    opened = tp.Run(run.path)
    assert opened.summary["best_step"] == run.summary["best_step"]
    assert asdict(opened.config) == asdict(run.config)


def test_it_resumes_and_says_nothing(run, small_data, capfd):
    again = tp.train(VALUES, small_data, run.path, progress=False)
    assert again.summary["steps"] == 4
    assert capfd.readouterr() == ("", "")


def test_lines_of_progress(small_data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    tp.train(VALUES, str(small_data), tmp_path / "run", changes=["training.steps=2"])
    lines = capfd.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("step 1 of 2 (epoch ")]
    assert len(steps) == 1
    assert "  loss " in steps[0]
    assert " tokens/s  " in steps[0]
    assert steps[0].endswith(" left")
    assert any(line.startswith("step 2: evaluation: batch 1 of ") for line in lines)


def test_configurations():
    expected = load_config("small", ["model.dim=16", 'priors.tree=["temporal:2"]'])
    changes = {"model.dim": 16, "priors.tree": ["temporal:2"]}
    assert config_of("small", changes) == expected
    assert config_of(load_config("small"), changes) == expected
    assert config_of({"model": {"dim": 16}, "seed": 3}) == config_of({"model.dim": 16, "seed": 3})
    assert config_of(None) == RunConfig()

    values = {"model": {"dim": 16}}
    assert config_of(values, {"model.context": 9}).model.context == 9
    assert values == {"model": {"dim": 16}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"config": "smal"}, "'smal' is neither"),
        ({"config": {"model": {"dimm": 8}}}, "did you mean 'model.dim'"),
        ({"config": replace(RunConfig(), seed=-1)}, "seed"),
        ({"track": "mlflo"}, "did you mean 'mlflow'"),
        ({"track": ["tensorboard", "torchx:x"]}, "torchx takes no place"),
    ],
)
def test_mistakes(small_data, tmp_path, arguments, says):
    arguments = {"config": VALUES, **arguments}
    with pytest.raises(tp.UserError, match=says):
        tp.train(data=small_data, run=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_split_that_does_not_exist(run):
    with pytest.raises(tp.UserError, match="split: 'train' is none of validation, test"):
        run.evaluate("train")


def test_a_data_frame_becomes_a_data_set_with_a_prior(tmp_path):
    rows = [(f"u{user}", f"i{(user + 3 * n) % 20}", n) for user in range(30) for n in range(9)]
    log = pd.DataFrame(rows, columns=["who", "what", "when"])
    log["when"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(log["when"], unit="h")
    data = tp.prepare(
        table=log, out=tmp_path / "data", user="who", item="what", time="when", progress=False
    )
    assert data.users == 30
    assert data.items == 20

    moods = pd.DataFrame({"item_id": [f"i{n}" for n in range(10)], "label": ["calm", "loud"] * 5})
    data = tp.add_prior(data, "mood", "item", labels=moods, progress=False)
    assert sorted(data.manifest.prior("mood").groups) == ["calm", "loud", "no mood"]
    with pytest.raises(tp.UserError, match="already exists"):
        tp.add_prior(data, "mood", "item", labels=moods)
    with pytest.raises(tp.UserError, match="labels is a dict: give a path, or a data frame"):
        tp.add_prior(data, "more", "item", labels={"i1": "calm"})
    with pytest.raises(tp.UserError, match="table needs user, item and time"):
        tp.prepare(table=log, out=tmp_path / "other", user="who")
    with pytest.raises(tp.UserError, match="raw cannot be combined with table"):
        tp.prepare(table=log, raw="x", out=tmp_path / "o", user="who", item="what", time="when")


def test_an_experiment_of_a_dictionary(small_data, tmp_path, monkeypatch):
    """Nothing is run: only what the description says is checked."""
    cells = {"name": "mine", "config": "small", "seeds": [0], "cells": {"one": {}}}
    with pytest.raises(tp.UserError, match=r"mine\.toml has no section \[search\]"):
        tp.experiment(cells, small_data, tmp_path, search=True)
    with pytest.raises(tp.UserError, match=r"mine\.toml names no data set"):
        tp.experiment(cells)
    with pytest.raises(tp.UserError, match="did you mean 'cells'"):
        tp.experiment({**cells, "cell": {}}, small_data)


def test_importing_is_fast():
    code = (
        "import sys, torchrec_priors as tp; assert 'torch' not in sys.modules; "
        "assert 'pyarrow' not in sys.modules; assert {'train', 'Run'} <= set(dir(tp)); tp.UserError; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there():
    for name in tp.__all__:
        assert getattr(tp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tp.nothing
