"""A joint softmax learns the same on any number of ranks, and begins as the softmax of one head."""

import habits
import numpy as np
import pytest
from ranks import run_on_ranks
from test_ranks_agree import train

OPTIONS = {
    "negatives.per_set": 64,  # more than the catalogue has, so every softmax is exact
    "negatives.logq": True,
    "loss.softmax": "joint",
    "loss.gate": 1.0,
    "evaluation.filter_seen": False,
}
TREE = ["category"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return habits.prepared(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def alone(data):
    return run_on_ranks(1, train, data, TREE, "cosine", OPTIONS)[0]


def test_untrained_heads_have_the_loss_of_one_head(data, alone):
    """All heads then have the same query and no logits, and every item is in one item set."""
    one_head = {key: value for key, value in OPTIONS.items() if not key.startswith("loss.")}
    losses, *_ = run_on_ranks(1, train, data, [], "cosine", one_head)[0]
    in_group = {**OPTIONS, "loss.softmax": "in_group", "loss.gate": 0.0}
    of_groups, *_ = run_on_ranks(1, train, data, TREE, "cosine", in_group)[0]

    assert alone[0][0] == pytest.approx(losses[0], rel=1e-5)
    assert alone[0][0] > of_groups[0] + 0.5, "a third of the items compete in a group"
    assert not np.allclose(alone[0][1:], losses[1:], rtol=1e-6), "then the heads learn"


def test_heads_without_adapters_learn_the_logits_of_their_groups(data, alone):
    bare = {**OPTIONS, "priors.adapters": "none"}
    losses, _, dense, _ = run_on_ranks(1, train, data, TREE, "cosine", bare)[0]
    assert losses[0] == pytest.approx(alone[0][0], rel=1e-5)
    assert not any("adapters" in name for name in dense)
    (gate,) = [value for name, value in dense.items() if name.endswith("gate.weight")]
    assert np.abs(np.asarray(gate)).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [0.0, 0.5])
@pytest.mark.parametrize(("world", "more"), [(1, {"training.accumulate": 3}), (3, {})], ids=str)
def test_ranks_and_parts_give_the_same(data, world, more, repeats):
    options = {**OPTIONS, "repeats.weight": repeats, "negatives.seen": not repeats}
    losses, rows, dense, metrics = run_on_ranks(1, train, data, TREE, "cosine", options)[0]
    answers = run_on_ranks(world, train, data, TREE, "cosine", {**options, **more})
    for other_losses, other_rows, other_dense, other_metrics in answers:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        np.testing.assert_allclose(other_rows, rows, atol=2e-5, rtol=1e-3)
        for name, value in dense.items():
            np.testing.assert_allclose(other_dense[name], value, atol=1e-3, rtol=1e-2)
        assert other_metrics["ndcg@10"] == pytest.approx(metrics["ndcg@10"], abs=0.03)
