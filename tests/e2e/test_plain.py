"""Plain baselines as runs: fitted, evaluated, compared with a neural model, and refused elsewhere."""

import json

import pyarrow.parquet as pq
import pytest
from command_line import CONFIG, TINY, app
from independent import recompute

from torchrec_priors.experiments.matrix import Cell
from torchrec_priors.experiments.plan import plan
from torchrec_priors.prepared.data_set import PreparedData

pytestmark = pytest.mark.slow

PLAIN = ["priors.tree=[]", "negatives.seen=true"]
COMPARED = f"""
config = '{CONFIG}'
seeds = [0, 1]
reference = "one head"
[budget]
model.dim = 8
encoder.layers = 1
training.batch = 8
training.steps = 2
training.evaluate_every = 2
[cells."one head"]
priors.tree = []
[cells.popular]
priors.tree = []
plain.name = "popularity"
plain.options.prior = "occupation"
[cells.EASE]
priors.tree = []
plain.name = "ease"
plain.options.l2 = 20
"""


@pytest.fixture(scope="module")
def fitted(small_data, tmp_path_factory):
    """The folder of a run of item-kNN."""
    run = tmp_path_factory.mktemp("plain") / "run"
    done = _train(small_data, run, "plain.name=item_knn")
    assert "item_knn in " in done.stdout
    return run


def _train(data, run, *overrides, **options):
    return app("train", "--config", CONFIG, "--data", data, "--run", run, *PLAIN, *overrides, **options)  # fmt: skip


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_evaluation_equals_an_independent_recomputation(fitted, small_raw, split, ranks):
    app("evaluate", "--run", fitted, "--split", split, ranks=ranks)
    place = fitted / "eval" / split
    metrics = json.loads((place / "metrics.json").read_text())
    recomputed, users, _ = recompute(small_raw, place / "predictions.parquet", split, horizon=8)
    assert users == metrics["users"]
    for name, value in recomputed.items():
        assert metrics[name] == pytest.approx(value, abs=1e-9), name
    if split == "validation":
        summary = json.loads((fitted / "summary.json").read_text())
        assert metrics["ndcg@10"] == pytest.approx(summary["validation/ndcg@10"], abs=1e-12)


def test_it_is_fitted_again_by_the_same_command_and_refused_with_another_option(fitted, small_data):
    _train(small_data, fitted, "plain.name=item_knn")
    done = _train(
        small_data, fitted, "plain.name=item_knn", "plain.options.neighbours=3", check=False
    )
    assert done.returncode == 2
    assert "plain.options.neighbours = None there, 3 here" in done.stderr


def test_what_needs_a_model_says_so_in_one_line(fitted, small_data, tmp_path):
    refused = [
        app("recommend", "--run", fitted, "--user", "1", check=False),
        app("export", "--run", fitted, "--out", tmp_path / "out", check=False),
        app("train", "--config", CONFIG, "--data", small_data, "--run", tmp_path / "new",
            "--init-from", fitted, *TINY, check=False),
        _train(small_data, tmp_path / "calibrated", "plain.name=ease",
               "evaluation.calibrated=true", check=False),
        _train(small_data, tmp_path / "from", "plain.name=ease", "--init-from", fitted, check=False),
    ]  # fmt: skip
    for done in refused:
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "plain" in done.stderr


def test_trending_gets_the_times_of_histories_in_training_and_evaluation(small_data, tmp_path):
    run = tmp_path / "run"
    _train(small_data, run, "plain.name=trending", "plain.options.hours=48")
    app("evaluate", "--run", run, "--split", "validation")
    metrics = json.loads((run / "eval/validation/metrics.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert metrics["ndcg@10"] == pytest.approx(summary["validation/ndcg@10"], abs=1e-12)

    # Users have different last times, so not all of them get the same lists.
    table = pq.read_table(run / "eval/validation/predictions.parquet")
    first = {items[0] for items in table["items"].to_pylist()}
    assert len(first) > 1


def test_repeats_lists_the_history_and_refuses_to_filter_it(small_data, tmp_path):
    run = tmp_path / "run"
    refused = [_train(small_data, run, "plain.name=repeats", check=False)]
    _train(small_data, run, "plain.name=repeats", "evaluation.filter_seen=false")
    evaluate = ["evaluate", "--run", run, "--split", "test"]
    refused.append(app(*evaluate, "evaluation.filter_seen=true", check=False))
    for done in refused:
        assert done.returncode == 2
        assert done.stderr.strip().endswith("give evaluation.filter_seen=false")
        assert len(done.stderr.strip().splitlines()) == 1

    app(*evaluate)
    lists = pq.read_table(run / "eval/test/predictions.parquet")
    data = PreparedData(small_data)
    item_ids = data.catalogue(["item_id"])["item_id"].to_pylist()
    for user_id, items in zip(lists["user_id"], lists["items"].to_pylist(), strict=True):
        history = data.find_user(str(user_id.as_py())).items[: -data.manifest.horizon]
        seen = {item_ids[item] for item in history}
        assert set(items[: len(seen)]) <= seen


@pytest.mark.slow
def test_two_plain_cells_and_a_neural_one_make_one_table_and_one_page(small_data, tmp_path):
    file = tmp_path / "compared.toml"
    file.write_text(COMPARED)
    out = tmp_path / "out"
    app("experiment", file, "--data", small_data, "--out", out, "--no-keep")

    rows = pq.read_table(out / "validation/results.parquet").to_pylist()
    assert [(row["cell"], row["seed"], row.get("plain")) for row in rows] == [
        ("one head", 0, None),
        ("one head", 1, None),
        ("popular", 0, "popularity"),
        ("EASE", 0, "ease"),
    ]
    table = (out / "validation/results.md").read_text()
    means, differences = table.split("Difference from one head")
    for cell in ("popular", "EASE"):
        assert f"| {cell} (deterministic: one run) | 1 | 0 |" in means
        (line,) = [line for line in differences.splitlines() if line.startswith(f"| {cell} |")]
        assert line.count("[") == 3, "an interval for each metric, over both seeds of the reference"
    assert "of 2 seeds" not in table

    # Nothing is left to do, even without weights.
    done = app("experiment", file, "--data", small_data, "--out", out)
    assert "4 done, 0 to do" in done.stderr
    app("report", "--runs", out, "--out", tmp_path / "page")
    page = (tmp_path / "page/index.html").read_text()
    assert "deterministic" in page
    assert "none shared" not in page


def test_a_plain_cell_is_planned_once_and_its_options_are_checked_first():
    cells = [
        Cell("EASE", {"plain.name": "ease"}, "EASE"),
        Cell("seen too", {"plain.name": "ease", "evaluation.filter_seen": False}, "EASE"),
        Cell("neural", {}, "neural"),
    ]
    runs = plan(cells, [5, 6, 7], {}, {})
    assert [run.name for run in runs] == [
        "EASE-seed5", "neural-seed5", "neural-seed6", "neural-seed7",
    ]  # fmt: skip
    assert [evaluation.cell for evaluation in runs[0].evaluations] == ["EASE", "seen too"]


def test_a_grown_data_set_is_refused(fitted, small_data, tmp_path, monkeypatch):
    from torchrec_priors.errors import UserError
    from torchrec_priors.training import plain_run
    from torchrec_priors.training.run.folder import RunFolder

    folder, data = RunFolder(fitted), PreparedData(small_data)
    plain_run.check_as_fitted(folder, data)
    monkeypatch.setattr(plain_run, "earlier_state", lambda *_: {"items": 1})
    with pytest.raises(UserError, match="has grown since"):
        plain_run.check_as_fitted(folder, data)


def test_ease_has_the_accuracy_on_movielens_that_is_known(ml_raw, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    app("prepare", "--dataset", "movielens", "--raw", ml_raw, "--out", data)
    _train(data, run, "plain.name=ease", "plain.options.l2=2000", "plain.options.last=5")
    app("evaluate", "--run", run, "--split", "test")
    metrics = json.loads((run / "eval/test/metrics.json").read_text())
    assert metrics["filter_seen"]
    assert metrics["horizon"] == 8
    assert 0.165 < metrics["ndcg@10"] < 0.180
