"""The likelihood of targets, split into groups and items inside them, against sums by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from users_with_targets import users_with_targets

from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.inside_groups import InsideGroups
from torchrec_priors.retrieval.search_types import Found

ITEMS, GROUPS = 40, 3


def _categories(group_I, entity="item"):
    return Categories.from_pairs(
        "section", ["a", "b", "c"], np.arange(len(group_I)), group_I, len(group_I), entity
    )


def _found(score_BI):
    """All items, best first; -inf leaves an item out, as a search does."""
    row_BI = np.argsort(-score_BI, axis=1, kind="stable")
    sorted_BI = np.take_along_axis(score_BI, row_BI, 1)
    row_BI = np.where(np.isfinite(sorted_BI), row_BI, -1)
    path_BI = torch.zeros(score_BI.shape, dtype=torch.int64)
    return Found(torch.from_numpy(row_BI), torch.from_numpy(sorted_BI), path_BI)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_equals_sums_over_single_items(seed, users):
    random = np.random.default_rng(seed)
    group_I = random.integers(GROUPS, size=ITEMS)
    score_BI = random.normal(size=(users, ITEMS)) * 3
    score_BI[random.random(score_BI.shape) < 0.1] = -np.inf
    targets = [random.integers(ITEMS, size=random.integers(1, 5)).tolist() for _ in range(users)]

    sums = InsideGroups.of(_categories(group_I))
    sums.update(users_with_targets(targets), _found(score_BI))

    p_BI = np.exp(score_BI) / np.exp(score_BI).sum(1, keepdims=True)
    pairs = [(user, item) for user, of_user in enumerate(targets) for item in of_user]
    possible = [(user, item) for user, item in pairs if p_BI[user, item] > 0]
    assert (sums.targets, sums.left_out) == (len(possible), len(pairs) - len(possible))

    bits = group_bits = 0.0
    group_hits = hits = inside_hits = 0
    for user, item in possible:
        mass_G = [p_BI[user][group_I == group].sum() for group in range(GROUPS)]
        better_I = score_BI[user] > score_BI[user, item]
        bits -= np.log2(p_BI[user, item])
        group_bits -= np.log2(mass_G[group_I[item]])
        group_hits += int(np.argmax(mass_G) == group_I[item])
        hits += int(better_I.sum() < 10)
        inside_hits += int((better_I & (group_I == group_I[item])).sum() < 10)
    assert sums.bits == pytest.approx(bits)
    assert sums.group_bits == pytest.approx(group_bits)
    assert (sums.group_hits, sums.hits, sums.inside_hits) == (group_hits, hits, inside_hits)


@pytest.mark.parametrize(
    "categories",
    [
        Categories.from_pairs("genre", ["a"], np.array([0, 0]), np.array([0, 0]), 2),
        Categories.from_pairs("genre", ["a"], np.array([0]), np.array([0]), 2),
        _categories(np.zeros(3, np.int64), "user"),
    ],
    ids=["two labels", "no label", "users"],
)
def test_a_prior_that_does_not_divide_the_items_is_rejected(categories):
    with pytest.raises(UserError, match="does not give every item exactly one group"):
        InsideGroups.of(categories)
