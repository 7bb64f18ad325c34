"""A repeat head learns the same on any number of ranks, and in any number of parts."""

import habits
import numpy as np
import pytest
from ranks import run_on_ranks
from test_ranks_agree import train

OPTIONS = {
    "negatives.seen": False,
    "repeats.weight": 0.5,
    "loss.gate": 1.0,
    "evaluation.filter_seen": False,
    "evaluation.fusion": "mean",
}
TREE = ["temporal:2", "category"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return habits.prepared(tmp_path_factory.mktemp("shop"))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "more"), [(1, {"training.accumulate": 3}), (3, {})], ids=str)
def test_ranks_and_parts_give_the_same(data, world, more):
    losses, rows, dense, metrics = run_on_ranks(1, train, data, TREE, "cosine", OPTIONS)[0]
    answers = run_on_ranks(world, train, data, TREE, "cosine", {**OPTIONS, **more})
    for other_losses, other_rows, other_dense, other_metrics in answers:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        np.testing.assert_allclose(other_rows, rows, atol=2e-5, rtol=1e-3)
        for name, value in dense.items():
            np.testing.assert_allclose(other_dense[name], value, atol=1e-3, rtol=1e-2)
        assert other_metrics["ndcg@10"] == pytest.approx(metrics["ndcg@10"], abs=0.03)
