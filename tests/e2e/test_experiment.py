"""An experiment from its file to its tables, with real trainings, killed on the way."""

import json
import sys

import pyarrow.parquet as pq
import pytest
from command_line import CONFIG, app
from killing import kill_all_when

BUDGET = """
[budget]
model.dim = 8
encoder.layers = 1
training.batch = 8
training.steps = 4
training.evaluate_every = 2
training.checkpoint_seconds = 0
"""
SMALL = """
seeds = [0]
reference = "LT/ST_1"
[cells."LT/ST_1"]
priors.tree = []
negatives.seen = true
[cells.broken]
priors.tree = ["genrr"]
[cells."seen items too"]
priors.tree = []
negatives.seen = true
evaluation.filter_seen = false
"""
LARGE = """
seeds = [0, 1]
reference = "LT/ST_1"
at_once = 2
[cells."LT/ST_1"]
priors.tree = []
[cells."LT/ST_2"]
priors.tree = ["temporal:2"]
[cells.broken]
priors.tree = ["genrr"]
"""


SEARCHED = """
seeds = [0]
reference = "LT/ST_1"
at_once = 2
[cells."LT/ST_1"]
priors.tree = []
[search]
trials = 2
[search.space]
encoder.dropout = [0.1, 0.5]
"""


@pytest.fixture
def write(tmp_path):
    """write(text) -> the file of an experiment over the usual configuration, with a small budget."""

    def writer(text):
        file = tmp_path / "tiny.toml"
        file.write_text(f"config = '{CONFIG}'\n{text}{BUDGET}")
        return file

    return writer


def _kill_once(there, *arguments):
    """Starts an experiment and kills it with all it started as soon as `there()`."""
    kill_all_when(
        there, [sys.executable, "-m", "torchrec_priors.apps.experiment", *arguments], seconds=200
    )


def _rows(out, split="validation"):
    """Of the Parquet file, without times."""
    rows = pq.read_table(out / split / "results.parquet").to_pylist()
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


@pytest.mark.slow
def test_killed_resumed_with_a_cell_that_fails_and_one_that_is_evaluated_alone(
    small_data, tmp_path, write
):
    out, file = tmp_path / "out", write(SMALL)
    arguments = [file, "--data", small_data, "--out", out]
    summary = out / "runs/LT-ST_1-seed0/summary.json"
    _kill_once(summary.is_file, *arguments)
    trained = summary.stat().st_mtime_ns
    done = app("experiment", *arguments, check=False)
    assert done.returncode == 1, done.stderr
    assert "failed: broken (seed 0)" in done.stderr
    assert summary.stat().st_mtime_ns == trained, "what is trained is not trained again"
    one, broken, too = _rows(out)
    assert broken["error"].endswith(
        "error: priors.tree: there is no prior 'genrr': did you mean 'genre'?"
    )
    assert one["error"] is too["error"] is None
    assert one["run"] == too["run"] == "LT-ST_1-seed0"
    assert one["config_sha256"] != too["config_sha256"]
    assert one["recall@10"] != too["recall@10"]
    assert one["ndcg@10"] == pytest.approx(one["validation/ndcg@10"], abs=1e-6)
    metrics = json.loads(
        (summary.parent / "eval/validation-seen-items-too/metrics.json").read_text()
    )
    assert metrics["ndcg@10"] == too["ndcg@10"]
    assert (metrics["filter_seen"], metrics["overrides"]) == (
        False,
        ["evaluation.filter_seen=false"],
    )
    table = (out / "validation" / "results.md").read_text()
    assert "| LT/ST_1 | 1 | 0 | " in table
    assert "| seen items too | " in table
    assert table in done.stdout
    assert not (out / "test").exists()
    assert not list(out.rglob("eval/test*")), "the test split is opened only where it is asked for"


@pytest.mark.slow
def test_searched_on_validation_and_the_best_on_test_without_training_again(
    small_data, tmp_path, write
):
    out, file = tmp_path / "out", write(SEARCHED)
    done = app("experiment", file, "--search", "--data", small_data, "--out", out)
    assert "1 of 1 runs of the best cells are trained" in done.stdout
    trials = pq.read_table(out / "search/results.parquet").to_pylist()
    assert [one["score"] is not None for one in trials] == [True, True]
    assert not list(out.rglob("eval/test*"))
    best = tmp_path / "out-best"
    app("experiment", out / "search/best.toml", "--split", "test", "--out", best)
    (row,) = _rows(best, "test")
    assert row["error"] is None
    assert row["validation/ndcg@10"] == pytest.approx(max(one["score"] for one in trials), abs=1e-6)
    assert {file.resolve().parents[2] for file in best.glob("runs/*/checkpoints")} == {
        out.resolve()
    }


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_an_experiment_that_was_killed_ends_as_one_that_was_not(small_data, tmp_path, write):
    file, whole, killed = write(LARGE), tmp_path / "whole", tmp_path / "killed"
    checkpoints = killed / "runs/LT-ST_2-seed0/checkpoints"
    _kill_once(
        lambda: list(checkpoints.glob("step-*[0-9]/.metadata")),
        file,
        "--data",
        small_data,
        "--out",
        killed,
    )
    for out in (killed, whole):
        assert (
            app(
                "experiment", file, "--data", small_data, "--out", out, check=False, timeout=600
            ).returncode
            == 1
        )
    assert len(_rows(whole)) == 6
    assert _rows(killed) == _rows(whole)
    assert (killed / "validation/results.md").read_text() == (
        whole / "validation/results.md"
    ).read_text()


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_on_a_scheduler_with_two_ranks_a_run(small_data, tmp_path, write):
    file = write(SMALL)
    arguments = ["experiment", file, "--data", small_data, "--split", "test"]
    app(*arguments, "--out", tmp_path / "here", "--only", "LT/ST_1")
    app(
        *arguments,
        "--out",
        tmp_path / "there",
        "--only",
        "LT/ST_1",
        "--scheduler",
        "local_cwd",
        "-j",
        "1x2",
    )
    (here, *rest), (there, *_) = _rows(tmp_path / "here", "test"), _rows(tmp_path / "there", "test")
    assert (here["ranks"], there["ranks"]) == (1, 2)
    assert there["ndcg@10"] == pytest.approx(here["ndcg@10"], abs=1e-6)
    assert {row["error"] for row in rest} == {"not run"}
