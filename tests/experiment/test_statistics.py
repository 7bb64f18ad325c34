"""Bootstrap intervals against a slow version, and against what an interval promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.experiment import statistics
from torchrec_priors.experiment.statistics import mean_and_deviation, paired_bootstrap


def _slow(difference_UD, resamples, seed):
    """One resample and one user at a time."""
    random = np.random.default_rng(seed)
    users = range(len(difference_UD))
    drawn = random.integers(0, len(users), (resamples, len(users)))
    found = []
    for column in difference_UD.T:
        means = sorted(sum(column[user] for user in row) / len(users) for row in drawn)
        found.append((sum(column) / len(users), np.quantile(means, 0.025), np.quantile(means, 0.975)))
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 40), st.integers(0, 99), st.integers(1, 200))
def test_the_same_as_one_user_at_a_time_however_many_are_drawn_at_once(users, columns, resamples, seed, at_once):
    difference_UD = np.random.default_rng(seed).normal(size=(users, columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_AT_ONCE", at_once)
        found = paired_bootstrap(difference_UD, resamples, seed)
    for interval, expected in zip(found, _slow(difference_UD, resamples, seed), strict=True):
        assert (interval.mean, interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_95_percent_of_the_intervals_hold_the_true_mean():
    """400 experiments of 150 users, with a skewed distribution of mean .3: 380 expected, standard deviation 4.4."""
    random = np.random.default_rng(5)
    differences_UD = random.exponential(0.5, (150, 400)) - 0.2
    inside = [each.low <= 0.3 <= each.high for each in paired_bootstrap(differences_UD, 1000)]
    assert 360 <= sum(inside) <= 395


def test_users_are_paired():
    """A gain that every user has is certain, however different users are."""
    base = np.random.default_rng(0).normal(size=500)
    (interval,) = paired_bootstrap((base + 0.01 - base)[:, None], 200)
    assert (interval.low, interval.high) == pytest.approx((0.01, 0.01))


def test_mean_and_deviation_of_one_seed_and_of_more():
    assert mean_and_deviation([2.0]) == (2.0, None)
    assert mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.sqrt(7)))
