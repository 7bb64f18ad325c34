"""Results are what the runs' folders hold; differences are between the same users and seeds."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_experiment import Small

from torchrec_priors.experiments.per_user import COMPARED
from torchrec_priors.experiments.results import NOT_RUN, Results, collect
from torchrec_priors.experiments.results_table import About, markdown


@pytest.fixture
def small(tmp_path, small_data):
    return Small(tmp_path, small_data)


CELLS = ["two", "one", "one again"]


def _collect(small, failures=None, split="validation"):
    return collect(small.out, small.plan(), CELLS, small.data, split, failures or {})


def test_rows_hold_the_metrics_and_sizes_of_every_cell_and_seed(small, tmp_path):
    small.run()
    results = _collect(small)
    results.write(tmp_path / "results.parquet")
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["cell"], row["seed"], row["error"]) for row in table] == [
        (cell, seed, None) for cell in CELLS for seed in (0, 1)
    ]
    for row, place in zip(table[2:4], ("eval/validation", "eval/validation"), strict=True):
        metrics = json.loads((small.out / "runs" / row["run"] / place / "metrics.json").read_text())
        for name in ("recall@5", "ndcg@10", "coverage@200", "new_interest/recall@10", "users"):
            assert row[name] == metrics[name]
        assert (row["heads"], row["parameters/heads"], row["validation/ndcg@10"], row["steps"]) == (
            3,
            2,
            0.5,
            2,
        )
    again = json.loads(
        (small.out / "runs/one-seed0/eval/validation-one-again/metrics.json").read_text()
    )
    assert (
        table[4]["ndcg@10"]
        == again["ndcg@10"]
        == table[4]["validation/ndcg@10"]
        != table[2]["ndcg@10"]
    )


def test_another_evaluations_validation_is_not_that_of_the_training(small):
    small.run(split="test")
    assert [row["validation/ndcg@10"] for row in _collect(small, split="test").rows] == [
        0.5
    ] * 4 + [None] * 2


def test_values_by_user_are_read_back_and_averaged_over_common_seeds(small):
    small.run()
    results = _collect(small)
    for cell in CELLS:
        for row in results.of(cell):
            means = results.per_user[cell][row["seed"]].mean(0)
            assert means == pytest.approx([row[name] for name in COMPARED], abs=1e-12)
    difference = results.differences("one")
    assert list(difference) == ["two", "one again"]
    for cell, intervals in difference.items():
        for place, interval in enumerate(intervals):
            seeds = [
                results.of(cell)[seed][COMPARED[place]] - results.of("one")[seed][COMPARED[place]]
                for seed in (0, 1)
            ]
            assert interval.mean == pytest.approx(np.mean(seeds))
            assert interval.low < interval.mean < interval.high
    del results.per_user["two"][0], results.per_user["one"][1]
    assert list(results.differences("one")) == ["one again"], "two and one have no seed in common"
    assert results.differences("none") == {}


def test_errors_stand_where_results_are_missing(small, tmp_path):
    small.launcher.broken = {"two-seed1": "train gave 1: no memory"}
    failures = small.run()
    file = small.out / "runs/one-seed0/eval/validation/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ndcg@10": 0.9}))
    (small.out / "runs/one-seed1/eval/validation/predictions.parquet").write_bytes(b"cut")
    (small.out / "runs/one-seed1/eval/validation-one-again/metrics.json").unlink()
    results = _collect(small, failures)
    errors = [row["error"] for row in results.rows]
    assert errors[:2] == [None, "train gave 1: no memory"]
    assert "0.9 in metrics.json" in errors[2]
    assert "run again" in errors[3]
    assert errors[4:] == [None, NOT_RUN]
    results.write(tmp_path / "results.parquet")
    assert pq.read_table(tmp_path / "results.parquet")["error"].to_pylist() == errors


def _about(reference="a"):
    command, data = "torchrec-priors experiment small.toml", ("shop", "f00")
    return About("small", "test", ["a", "b"], [0, 1], ["recall@10"], reference, command, data)


def _row(cell, seed, recall):
    sizes = {"heads": 2, "parameters/heads": 8192, "validation/ndcg@10": 0.25}
    shared = {"cell": cell, "seed": seed, "config_sha256": "c", "error": None}
    return {**shared, **sizes, "recall@10": recall}


def test_the_table_shows_mean_and_deviation_and_differences():
    gain = np.array([[0.1, 0.2, 0.3]] * 4)
    results = Results([_row("a", 0, 0.1), _row("a", 1, 0.3), _row("b", 0, 0.5)])
    results.per_user["a"].update({0: 0 * gain, 1: 0 * gain})
    results.per_user["b"].update({0: gain})
    results.rows.append(
        {"cell": "b", "seed": 1, "config_sha256": "c", "error": "train gave 1: no memory"}
    )
    text = markdown(results, _about())
    for line in (
        "| cell | heads | parameters of heads | validation ndcg@10 | recall@10 |",
        "| a | 2 | 8,192 | 0.2500 ± 0.0000 | 0.2000 ± 0.1414 |",
        "| b (1 of 2 seeds) | 2 | 8,192 | 0.2500 | 0.5000 |",
        "| b (one seed) | +0.1000 [+0.1000, +0.1000] | +0.2000 [+0.2000, +0.2000] | +0.3000 [+0.3000, +0.3000] |",
        "- b, seed 1: train gave 1: no memory",
        "- command: `torchrec-priors experiment small.toml`",
        "- data set: shop, content sha256 `f00`",
    ):
        assert line in text.splitlines(), line
    for row in results.rows:
        row["interests"] = {"a": None, "b": 1}[row["cell"]]
    lines = markdown(results, _about()).splitlines()
    assert "| b, K = 1 (1 of 2 seeds) | 2 | 8,192 | 0.2500 | 0.5000 |" in lines, (
        "with one interest, a weighted sum"
    )
    assert any(line.startswith("| b, K = 1 (one seed) | +0.1000 [") for line in lines)
    assert "Difference" not in markdown(results, _about(reference=""))
