"""The whole path on real MovieLens 100K: raw files, two ranks under TorchX, evaluation on 1 to 3, recommendations."""

import json

import pyarrow.parquet as pq
import pytest
from command_line import BIN, REPOSITORY, app, run
from independent import recompute
from run_files import logged

pytestmark = pytest.mark.slow

SMALL = [
    "model.dim=16",
    "encoder.layers=1",
    "training.steps=30",
    "training.evaluate_every=15",
    "training.batch=64",
]


@pytest.fixture(scope="module")
def trained(ml_raw, tmp_path_factory):
    """(prepared data, run) trained on two ranks by the TorchX component."""
    folder = tmp_path_factory.mktemp("path")
    data, finished = folder / "data", folder / "run"
    app("prepare", "--dataset", "movielens", "--raw", ml_raw, "--out", data)
    component = [
        "components/train.py:train",
        "--config",
        REPOSITORY / "torchx_configs/ml-100k.toml",
    ]
    where = ["--data", data, "--run", finished, *SMALL, 'priors.tree=["temporal:2", "genre"]']
    run([BIN / "torchx", "run", "-s", "local_cwd", *component, *where], cwd=REPOSITORY)
    return data, finished


def test_a_run_leaves_what_is_promised(trained):
    _, finished = trained
    assert {path.name for path in finished.iterdir()} >= {
        "config.toml",
        "checkpoints",
        "metrics.jsonl",
        "events",
        "summary.json",
    }
    lines = logged(finished)
    assert [line["step"] for line in lines if "validation/ndcg@10" in line] == [15, 30]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert json.loads((finished / "summary.json").read_text())["ranks"] == 2


@pytest.mark.parametrize("split", ["test", pytest.param("validation", marks=pytest.mark.slow)])
def test_figures_do_not_depend_on_the_ranks_and_equal_an_independent_recomputation(
    trained, ml_raw, split
):
    _, finished = trained
    figures, predictions = [], []
    place = finished / "eval" / split
    for ranks in (1, 2, 3):
        app("evaluate", "--run", finished, "--split", split, ranks=ranks)
        figures.append(json.loads((place / "metrics.json").read_text()))
        predictions.append(
            pq.read_table(place / "predictions.parquet").sort_by("user_id").drop(["scores"])
        )
    assert predictions[0] == predictions[1] == predictions[2]
    names = [
        name for name, value in figures[0].items() if isinstance(value, float) and name != "seconds"
    ]
    assert len(names) > 150
    for other in figures[1:]:
        for name in names:
            assert abs(other[name] - figures[0][name]) <= 1e-6, name
    recomputed, users, left = recompute(ml_raw, place / "predictions.parquet", split, horizon=8)
    assert users == figures[0]["users"] == 943
    assert not left
    for name, value in recomputed.items():
        assert abs(figures[0][name] - value) <= 1e-6, name


def test_recommendations_carry_original_ids_titles_and_reasons(trained, ml_raw):
    _, finished = trained
    answer = json.loads(
        app("recommend", "--run", finished, "--user", "7", "--json", "-k", "5").stdout
    )
    rows = (
        line.split("|") for line in (ml_raw / "u.item").read_text(encoding="latin-1").splitlines()
    )
    titles = {int(row[0]): row[1] for row in rows}
    rated = {
        int(line.split()[1])
        for line in (ml_raw / "u.data").read_text().splitlines()
        if line.split()[0] == "7"
    }
    assert len(answer["items"]) == 5
    for item in answer["items"]:
        assert item["title"] == titles[item["item_id"]]
        assert item["item_id"] not in rated
        assert item["head"] in item["head_scores"]
        assert item["score"] == pytest.approx(max(item["head_scores"].values()), abs=1e-4)
        assert item["head"].split(" / ")[0] in ("short-term", "long-term")
    table = app("recommend", "--run", finished, "--user", "7", "-k", "5").stdout
    assert all(item["title"] in table and item["head"] in table for item in answer["items"])


def test_a_history_of_ones_own_is_answered_the_same_on_two_ranks(trained):
    _, finished = trained
    history = ["--history", "50,172,181", "--json"]
    alone = json.loads(app("recommend", "--run", finished, *history).stdout)["items"]
    together = app("recommend", "--run", finished, *history, ranks=2).stdout
    assert [item["item_id"] for item in alone] == [
        item["item_id"] for item in json.loads(together)["items"]
    ]
    assert not {50, 172, 181} & {item["item_id"] for item in alone}
