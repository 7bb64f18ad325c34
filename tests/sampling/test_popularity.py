"""Draw weights are (frequency + 1) ^ alpha as integers whose sums are exact."""

import numpy as np
import pytest

from torchrec_priors.sampling.popularity import draw_weights


@pytest.mark.parametrize("alpha", [0.1, 0.75, 1.0, 2.0])
def test_weights_are_proportional_to_the_power_of_the_frequency_plus_one(alpha):
    frequency = np.random.default_rng(0).integers(0, 10_000, 300)
    weights = draw_weights(frequency, alpha)
    assert weights.dtype == np.int64
    expected = (frequency + 1.0) ** alpha
    np.testing.assert_allclose(weights / weights.sum(), expected / expected.sum(), rtol=1e-5)


def test_uniform_draws_have_unit_weights():
    assert draw_weights(np.array([5, 0, 7]), 0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("alpha", [1.0, 6.0, 1000.0])
@pytest.mark.parametrize("items", [1, 2, 1000, 1 << 20])
def test_every_item_can_be_drawn_and_the_sum_does_not_overflow(alpha, items):
    frequency = np.full(items, 10**9)
    frequency[1::2] = 0
    weights = draw_weights(frequency, alpha)
    assert weights.min() >= 1
    assert weights.astype(object).sum() < 2**62


def test_no_items_have_no_weights():
    assert draw_weights(np.zeros(0, np.int64), 1.0).tolist() == []
