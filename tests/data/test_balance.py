"""Dealing a batch to ranks by cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_priors.data.balance import attention_cost, deal

RANKS = 8


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 9))
def test_no_rank_has_more_than_the_mean_and_one_window(costs, ranks):
    cost_B = np.array(costs, np.int64)
    rank_B = deal(cost_B, ranks)
    work = np.bincount(rank_B, cost_B, minlength=ranks)
    assert len(work) == ranks
    assert work.sum() == cost_B.sum()
    assert work.max() <= cost_B.sum() / ranks + cost_B.max(initial=0)
    assert len(set(rank_B.tolist())) == min(ranks, len(costs)), (
        "an idle rank beside one with two windows"
    )


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(2, 5), st.randoms())
def test_windows_of_one_cost_may_be_named_in_any_order(lengths, ranks, random):
    """The work of the ranks follows from the costs alone."""
    other = random.sample(lengths, len(lengths))
    works = [
        np.bincount(deal(np.array(costs), ranks), costs, minlength=ranks)
        for costs in (lengths, other)
    ]
    assert works[0].tolist() == works[1].tolist()


def test_cost_is_that_of_the_layers_products():
    """10 n d^2 of the projections and 2 n^2 d of causal attention, in floating-point operations."""
    for length, dim in ((1, 64), (400, 128)):
        operations = 10 * length * dim**2 + 2 * length**2 * dim
        assert attention_cost(np.array([length]), dim).tolist() == [operations // (2 * dim)]


def _slowest(lengths_SB: np.ndarray, dim: int, balanced: bool) -> float:
    """Work of the slowest rank relative to the mean, over steps of a batch each."""
    slowest, whole = 0.0, 0.0
    for length_B in lengths_SB:
        cost_B = attention_cost(length_B, dim)
        rank_B = deal(cost_B, RANKS) if balanced else np.arange(len(cost_B)) * RANKS // len(cost_B)
        slowest += np.bincount(rank_B, cost_B, minlength=RANKS).max()
        whole += cost_B.sum()
    return slowest / (whole / RANKS)


@pytest.mark.parametrize(
    ("batch", "dim"), [(128, 64), (128, 128), (128, 512), (512, 0), (512, 128)]
)
def test_on_zipf_lengths_the_slowest_of_eight_ranks_is_near_the_mean(batch, dim):
    """Width 0 counts the attention alone, n^2."""
    lengths_SB = np.minimum(np.random.default_rng(0).zipf(1.3, (50, batch)), 400)
    balanced, slices = (_slowest(lengths_SB, dim, how) for how in (True, False))
    assert balanced < 1.05
    assert slices > 1.2, "there was nothing to balance"
