"""Whatever becomes of unseen items: training, evaluation and recommendations do not depend on the number of ranks."""

import numpy as np
import pytest
import tiny
import torch
from ranks import run_on_ranks
from run_files import losses

from torchrec_priors.config import parse
from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.managed.table import blocks_of
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join

pytestmark = pytest.mark.slow

SETTINGS = tiny.settings(
    model={"dim": 16},
    encoder={"dropout": 0.3, "time_bias": True, "item_features": ["title"]},
    priors={"tree": ["temporal:2", "genre"]},
    negatives={"catalogue_share": 0.2, "popularity": 0.5, "logq": True},
    loss={"gate": 1.0},
    table={"init_std": 0.1},
    training={"batch": 9, "steps": 6, "evaluate_every": 6, "accumulate": 2},
    evaluation={"batch": 40},
)
POLICIES = {
    "own": {},
    "dropped": {"unseen": "dropped", "min_frequency": 12},
    "shared": {"unseen": "shared", "min_frequency": 12},
    "hashed": {"unseen": "hashed", "min_frequency": 12, "hashed_rows": 5},
    "lfu": {
        "unseen": "managed",
        "rows": 60,
        "blocks": 6,
        "eviction": "lfu",
        "eviction_interval": 3,
    },
    "lru": {
        "unseen": "managed",
        "rows": 60,
        "blocks": 6,
        "eviction": "lru",
        "eviction_interval": 2,
    },
    "both": {"unseen": "managed", "rows": 120, "blocks": 6, "eviction_interval": 1},
}


def run_all(data, folder, policies):
    """Of each policy: (losses, metrics, what is loaded)."""
    answers = {}
    with join() as ranks:
        for name in policies:
            config = parse(tiny.merged(SETTINGS, embedding=POLICIES[name]))
            tiny.train(config, data, folder / name)
            answers[name] = load(folder / name, ranks)
    return answers


def load_all(folder, policies):
    with join() as ranks:
        return {name: load(folder / name, ranks) for name in policies}


def load(run, ranks):
    """(losses, metrics of a checkpoint on these ranks, the table, what it holds)."""
    config, data, built = tiny.best(run, ranks)
    metrics = tiny.metrics_of(built, config, data, ranks, by_group=())
    rows = tiny.whole_table(built, ranks)
    item_of_row = torch.full((len(rows),), -1)
    if isinstance(built.model.item_rows, ManagedRows):
        item_of_row[:] = 0
        held = blocks_of(built.model.table).held()
        item_of_row[torch.from_numpy(held.row_C)] = torch.from_numpy(held.item_C) + 1
        item_of_row = ranks.total(item_of_row)
    return losses(run), metrics, rows, item_of_row


@pytest.fixture(scope="module")
def alone(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, run_on_ranks(1, run_all, small_data, folder, list(POLICIES))[0]


@pytest.mark.parametrize(
    ("world", "policies"),
    [
        (2, ["shared", "hashed", "lfu", "lru"]),
        pytest.param(4, ["dropped", "both"], marks=pytest.mark.slow),
    ],
)
def test_training_and_evaluation(alone, small_data, tmp_path, world, policies):
    folder, expected = alone
    for answers in run_on_ranks(world, run_all, small_data, tmp_path, policies):
        for name, (found, metrics, rows, held) in answers.items():
            of_one = expected[name]
            np.testing.assert_allclose(found, of_one[0], rtol=1e-4, err_msg=name)
            assert held.tolist() == of_one[3].tolist(), name
            torch.testing.assert_close(rows, of_one[2], atol=2e-5, rtol=1e-3)
            for key in ("users", "unseen/items", "unseen/targets", "unseen/interactions"):
                assert metrics.get(key) == of_one[1].get(key), (name, key)
    same = run_on_ranks(world, load_all, folder, policies)[0]
    for name, (_, metrics, rows, _) in same.items():
        assert torch.equal(rows, expected[name][2]), (
            "a checkpoint is the same on any number of ranks"
        )
        assert metrics["ndcg@10"] == pytest.approx(expected[name][1]["ndcg@10"], abs=1e-6)


def test_losses_are_finite_and_change(alone):
    for name, (found, *_) in alone[1].items():
        trained = [loss for loss in found if loss > 0]
        assert np.isfinite(found).all(), name
        assert len(set(found)) == len(found), f"{name}: training does nothing"
        assert len(trained) == len(found), name


def test_policies_differ_and_count(alone, small_data):
    metrics = {name: found[1] for name, found in alone[1].items()}
    assert "unseen/items" not in metrics["own"]
    frequency = PreparedData(small_data).catalogue(["frequency"])["frequency"].to_numpy()
    for name in ("dropped", "shared", "hashed"):
        assert metrics[name]["unseen/items"] == (frequency < 12).sum()
    assert len({found["ndcg@200"] for found in metrics.values()}) == len(metrics)
    assert metrics["dropped"]["recall@200"] < 1 - 0.9 * metrics["dropped"]["unseen/targets_share"]
