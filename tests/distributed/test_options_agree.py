"""Encoder inputs, side features, weighted and shared negatives, accumulated gradients and recomputed layers do not
change what ranks compute."""

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from test_ranks_agree import train

EVERYTHING = {
    "encoder.time_bias": True,
    "encoder.events": True,
    "encoder.item_features": ["release_date", "title"],
    "negatives.popularity": 0.75,
    "negatives.catalogue_share": 0.3,
    "negatives.logq": True,
    "negatives.seen": False,
}
TREE = ["temporal:2", "genre"]


@pytest.fixture(scope="module")
def alone(small_data):
    return run_on_ranks(1, train, small_data, TREE, "dot", EVERYTHING)[0]


def test_the_inputs_are_used(alone, small_data):
    losses, *_ = run_on_ranks(1, train, small_data, TREE, "dot", {})[0]
    assert not np.allclose(losses[1:], alone[0][1:], rtol=1e-5)


@pytest.mark.parametrize("option", [key for key in EVERYTHING if key.startswith("negatives.")])
def test_each_option_of_negatives_is_used(option, alone, small_data):
    others = {key: value for key, value in EVERYTHING.items() if key != option}
    losses, *_ = run_on_ranks(1, train, small_data, TREE, "dot", others)[0]
    assert not np.isclose(losses[0], alone[0][0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "more"),
    [
        (1, {"training.accumulate": 3}),
        (
            2,
            {"training.accumulate": 3, "encoder.recompute": True},
        ),  # more parts than windows of a rank: some are empty
        (4, {}),
    ],
    ids=str,
)
def test_ranks_and_parts_give_the_same_losses_tables_and_parameters(world, more, alone, small_data):
    losses, rows, dense, metrics = alone
    answers = run_on_ranks(world, train, small_data, TREE, "dot", {**EVERYTHING, **more})
    for other_losses, other_rows, other_dense, other_metrics in answers:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        torch.testing.assert_close(other_rows, rows, atol=2e-5, rtol=1e-3)
        for name, value in dense.items():
            torch.testing.assert_close(other_dense[name], value, atol=1e-3, rtol=1e-2)
        assert abs(other_metrics["recall@50"] - metrics["recall@50"]) < 0.05


def test_bf16_is_close_and_not_the_same(alone, small_data):
    losses, *_ = run_on_ranks(
        1, train, small_data, TREE, "dot", {**EVERYTHING, "training.precision": "bf16"}
    )[0]
    np.testing.assert_allclose(losses, alone[0], rtol=2e-2)
    assert losses != alone[0]
