"""On a made-up log, communities are interests that were planted, and heads that explain hits name these."""

import json
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest
from command_line import REPOSITORY, app

ROWS = 120_000
TOP = 10


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_the_head_that_explains_a_hit_is_that_of_the_interest_that_was_planted(tmp_path):
    raw, data, run = tmp_path / "raw", tmp_path / "data", tmp_path / "run"
    app("prepare", "--dataset", "marketplace", "--generate", ROWS, "--raw", raw, "--out", data)
    app("prior", "graph", "--data", data, "--name", "community", "--neighbours", 20, "--groups", 33)
    app(
        "train", "--config", REPOSITORY / "torchx_configs/marketplace.toml", "--data", data, "--run", run,
        'priors.tree=["temporal:2", "community"]', "loss.gate=1.0", "evaluation.calibrated=true",
        "evaluation.fusion=mean", "training.steps=200", ranks=2, timeout=900,
    )  # fmt: skip
    app("evaluate", "--run", run, "--split", "test", ranks=2)

    items = pq.read_table(raw / "items.parquet", columns=["item_id", "category3"]).to_pydict()
    leaf_of = dict(zip(items["item_id"], items["category3"], strict=True))
    planted = _planted_at_the_end(raw, data)
    named = _leaf_of_groups(data, leaf_of)
    found = Counter()
    for user in pq.read_table(run / "eval/test/predictions.parquet").to_pylist():
        targets = set(user["targets"])
        for item, head in list(zip(user["items"], user["heads"], strict=True))[:TOP]:
            if item in targets:
                leaf = named[head.split(" / ")[1]]
                found["hits"] += 1
                found["of the planted interest"] += (
                    leaf == leaf_of[item] and leaf in planted[user["user_id"]]
                )
    share = found["of the planted interest"] / found["hits"]
    print(f"{found['hits']:,} hits; the head's path is the planted interest of {share:.1%}")
    assert found["hits"] > 500
    assert share >= 0.8


def _planted_at_the_end(raw, data):
    """Leaves that each user was interested in at the time of the test targets."""
    horizon = json.loads((data / "manifest.json").read_text())["horizon"]
    users = pq.read_table(data / "sequences", columns=["user_id", "timestamps"]).to_pydict()
    begins = {user: times[-horizon] for user, times in zip(*users.values(), strict=True)}
    planted = defaultdict(set)
    for row in pq.read_table(raw / "truth/interests.parquet").to_pylist():
        if row["until"] >= begins.get(row["user_id"], float("inf")):
            planted[row["user_id"]].add(row["category3"])
    return planted


def _leaf_of_groups(data, leaf_of):
    """The leaf of most items of each community, by the community's name."""
    names = next(
        p["groups"]
        for p in json.loads((data / "manifest.json").read_text())["priors"]
        if p["kind"] == "graph"
    )
    ids = pq.read_table(data / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    leaves = defaultdict(Counter)
    for row in pq.read_table(data / "priors/community.parquet").to_pylist():
        leaves[names[row["group"]]][leaf_of[ids[row["item"]]]] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in leaves.items()}
