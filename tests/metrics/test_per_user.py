"""Values by user, whose means are the metrics."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import CUTOFFS, DEPTH, Ranked
from torchrec_priors.metrics.ranking import RankingMetrics


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 250), st.integers(1, 6))
def test_a_users_values_are_the_metrics_of_that_user_alone_and_their_mean_those_of_all(
    seed, items, users
):
    random = np.random.default_rng(seed)
    category = Categories.from_pairs(
        "genre", ["a", "b", "c"], np.arange(items), random.integers(0, 3, items), items
    )
    row_BR = np.full((users, DEPTH), -1)
    for row in row_BR:
        shown = random.permutation(items)[: random.integers(0, min(items, DEPTH) + 1)]
        row[: len(shown)] = shown
    lengths = random.integers(1, 9, users)
    targets = random.integers(0, items, lengths.sum())
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    ranked = Ranked.of(row_BR, targets, lengths, items)

    def metrics(low, high):
        found = RankingMetrics(items, np.ones(items), category, [])
        some = np.split(targets[bounds[low] : bounds[high]], bounds[low + 1 : high] - bounds[low])
        nothing = [np.zeros(0, np.int64)] * (high - low)
        found.update(
            Histories.of(pa.array(range(high - low)), nothing, some, context=1), row_BR[low:high]
        )
        return found.results()

    for cutoff in CUTOFFS:
        short = Ranked.of(row_BR[:, :cutoff], targets, lengths, items).values(cutoff, category)
        for name, value_B in ranked.values(cutoff, category).items():
            assert value_B == pytest.approx(
                [metrics(user, user + 1)[f"{name}@{cutoff}"] for user in range(users)]
            )
            assert value_B.mean() == pytest.approx(metrics(0, users)[f"{name}@{cutoff}"])
            assert np.array_equal(short[name], value_B), (
                "no more columns are needed than the cutoff"
            )
