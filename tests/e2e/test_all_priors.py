"""MovieLens 100K with 88 heads, and with all five kinds of prior at once: prior, train, evaluate, recommend."""

import json

import pytest
from command_line import CONFIG, app

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]

DIM = 16
FEW_STEPS = [
    f"model.dim={DIM}",
    "encoder.layers=1",
    "training.steps=40",
    "training.evaluate_every=40",
]


@pytest.fixture(scope="module")
def data(ml_raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ml") / "data"
    app("prepare", "--dataset", "movielens", "--raw", ml_raw, "--out", folder)
    app("prior", "graph", "--data", folder, "--name", "community", "--groups", 11)
    app("prior", "graph", "--data", folder, "--name", "few", "--groups", 4)
    app("prior", "user", "--data", folder, "--name", "crowd", "--groups", 3)
    return folder


def _trained(data, run, *overrides):
    app(
        "train",
        "--config",
        CONFIG,
        "--data",
        data,
        "--run",
        run,
        *FEW_STEPS,
        *overrides,
        ranks=2,
        timeout=900,
    )
    app("evaluate", "--run", run, "--split", "test", ranks=2, timeout=900)
    summary = json.loads((run / "summary.json").read_text())
    return summary, json.loads((run / "eval/test/metrics.json").read_text())


def test_88_heads_of_segments_and_communities(data, tmp_path):
    summary, metrics = _trained(data, tmp_path / "run", 'priors.tree=["temporal:8", "community"]')
    assert summary["paths"] == 8 * 11
    assert summary["parameters"]["heads"] == (8 + 8 * 11) * DIM**2 + 8 * DIM
    assert metrics["ndcg@10"] > 0.06, "no better than at random"


@pytest.mark.parametrize("composition", ["hierarchical", "multiplicative", "additive"])
def test_all_five_kinds_at_once(data, tmp_path, composition):
    run, tree = tmp_path / "run", ["temporal:2", "crowd", "rating", "few", "genre"]
    summary, metrics = _trained(
        data, run, f"priors.tree={json.dumps(tree)}", f"priors.composition={composition}", "priors.min_positives=50",
        "loss.gate=1.0", "evaluation.calibrated=true", "evaluation.fusion=mean",
    )  # fmt: skip
    added = 2 + 3 + 5 + 4 + 19
    assert summary["paths"] == added if composition == "additive" else summary["paths"] > 1000
    assert metrics["users"] == 943
    assert metrics["ndcg@10"] > 0.04
    paths = json.loads((run / "paths.json").read_text())["paths"]
    assert composition == "additive" or any(path["backed_off_to"] is not None for path in paths)
    answer = json.loads(app("recommend", "--run", run, "--user", 1, "--json").stdout)
    assert len(answer["items"]) == 10
    crowds = {name for item in answer["items"] for name in item["head_scores"] if "users" in name}
    assert (
        len(
            {
                next(part for part in name.split(" / ") if part.startswith("users"))
                for name in crowds
            }
        )
        <= 1
    )
