"""Bootstrap intervals against a slow version, and against what an interval promises: over users and over seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.experiments import statistics
from torchrec_priors.experiments.statistics import Difference, intervals_of, mean_and_deviation


def _of_one_seed(difference_UD):
    return Difference((difference_UD[None],), ((0,), (0,)))


def _of_seeds(difference_SUD):
    seeds = tuple(range(len(difference_SUD)))
    return Difference((difference_SUD,), (seeds, seeds))


def _slow(difference_UD, resamples, seed):
    """One resample and one user at a time."""
    random = np.random.default_rng(seed)
    users = range(len(difference_UD))
    drawn = random.integers(0, len(users), (resamples, len(users)))
    found = []
    for column in difference_UD.T:
        means = sorted(sum(column[user] for user in row) / len(users) for row in drawn)
        found.append(
            (sum(column) / len(users), np.quantile(means, 0.025), np.quantile(means, 0.975))
        )
    return found


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 99),
    st.integers(1, 200),
)
def test_the_same_as_one_user_at_a_time_however_many_are_drawn_at_once(
    users, columns, resamples, seed, at_once
):
    difference_UD = np.random.default_rng(seed).normal(size=(users, columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_AT_ONCE", at_once)
        (found,) = intervals_of([_of_one_seed(difference_UD)], resamples, seed)
    for interval, expected in zip(found, _slow(difference_UD, resamples, seed), strict=True):
        assert (interval.mean, interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_95_percent_of_the_intervals_of_one_seed_hold_the_true_mean():
    """400 experiments of 150 users, with a skewed distribution of mean .3: 380 expected, standard deviation 4.4."""
    random = np.random.default_rng(5)
    differences_UD = random.exponential(0.5, (150, 400)) - 0.2
    (intervals,) = intervals_of([_of_one_seed(differences_UD)], 1000)
    assert 360 <= sum(each.low <= 0.3 <= each.high for each in intervals) <= 395


def _without_a_difference(seeds, of_seeds, of_users, rest, experiments=600, users=120):
    """[S, U, D]: a column is an experiment in which the models do not differ; deviations of the parts are given."""
    random = np.random.default_rng(9)
    shape = (seeds, users, experiments)
    found = random.normal(0, rest, shape) + random.normal(0, of_users, shape[1:])
    return found + random.normal(0, of_seeds, (seeds, 1, experiments))


def _false(difference_SUD):
    (intervals,) = intervals_of([_of_seeds(difference_SUD)], 1000)
    return np.mean([each.low > 0 or each.high < 0 for each in intervals])


# Deviations of what seeds have, what users have and the rest; without the first a mean varies by .05 to .1.
@pytest.mark.parametrize(("seeds", "most"), [(2, 0.12), (3, 0.09), (5, 0.08)])
@pytest.mark.parametrize(("of_users", "rest"), [(0.3, 1.0), (1.0, 0.3)])
@pytest.mark.parametrize("of_seeds", [0.0, 0.08, 0.3, 1.0])
def test_where_nothing_differs_about_5_percent_of_the_intervals_leave_out_0(
    seeds, most, of_seeds, of_users, rest
):
    """What seeds differ in is in the intervals, however much or little it is beside what users differ in."""
    assert 0.01 <= _false(_without_a_difference(seeds, of_seeds, of_users, rest)) <= most


def test_means_over_seeds_alone_would_be_false_far_more_often():
    """So the test above can fail: a bootstrap over users takes what seeds differ in for a gain."""
    difference_SUD = _without_a_difference(3, 0.3, 0.3, 1.0)
    (intervals,) = intervals_of([_of_one_seed(difference_SUD.mean(0))], 1000)
    assert np.mean([each.low > 0 or each.high < 0 for each in intervals]) > 0.4


def test_users_are_paired():
    """A gain that every user has is certain, however different users are."""
    base = np.random.default_rng(0).normal(size=(3, 500, 1))
    ours, theirs = ({seed: values[seed] for seed in range(3)} for values in (base + 0.01, base))
    ((interval,),) = intervals_of([Difference.between(ours, theirs)], 200)
    assert (interval.low, interval.high) == pytest.approx((0.01, 0.01))


def test_a_difference_is_of_the_shared_seeds_or_of_each_models_own():
    random = np.random.default_rng(3)
    values = {seed: random.normal(seed, 1, (50, 2)) for seed in range(5)}
    shared = Difference.between({0: values[0], 1: values[1]}, {1: values[2], 2: values[3]})
    assert (shared.seeds, shared.of_one_seed) == (((1,), (1,)), True)
    np.testing.assert_allclose(shared.mean_UM, values[1] - values[2])
    own = Difference.between(
        {0: values[0], 1: values[1]}, {2: values[2], 3: values[3], 4: values[4]}
    )
    assert (own.seeds, own.of_one_seed) == (((0, 1), (2, 3, 4)), False)
    np.testing.assert_allclose(
        own.mean_UM, (values[0] + values[1]) / 2 - (values[2] + values[3] + values[4]) / 3
    )
    assert [part.freedom for part in own.parts] == [1, 2]
    some = own.of(users=np.arange(50) < 10, metrics=[1])
    np.testing.assert_allclose(some.mean_UM, own.mean_UM[:10, 1:])


def test_draws_of_students_t_have_its_quantiles():
    for freedom, quantile in ((1, 12.706), (2, 4.303), (4, 2.776)):
        found = statistics._t_draws(freedom, 10_000, 0)
        assert np.quantile(found, [0.025, 0.975]) == pytest.approx([-quantile, quantile], rel=0.05)


def test_mean_and_deviation_of_one_seed_and_of_more():
    assert mean_and_deviation([2.0]) == (2.0, None)
    assert mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.sqrt(7)))
