"""Lists made diverse are those of the definition; what the definition calls entropy is the metric's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import Ranked
from torchrec_priors.retrieval.diversify import CANDIDATES, Diversifier, diversify_reference
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.settings.evaluation import RetrievalConfig

CPU = torch.device("cpu")


@st.composite
def cases(draw):
    """(pairs of item and category, items, what was found): lists of several lengths, ties, items of no category."""
    items = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    labels = [draw(st.sets(st.integers(0, 5), max_size=4)) for _ in range(items)]
    users, wide = draw(st.integers(0, 4)), draw(st.integers(items, 45))
    row, score = np.full((users, wide), -1), np.full((users, wide), -np.inf, np.float32)
    for user in range(users):
        length = draw(st.integers(0, items))
        row[user, :length] = generator.permutation(items)[:length]
        score[user, :length] = -np.sort(-generator.integers(-3, 4, length).astype(np.float32))
    found = Found(torch.from_numpy(row), torch.from_numpy(score), torch.from_numpy(row % 3))
    return labels, items, found


def _diversifier(weight, labels, items):
    pairs = np.array(
        [(item, group) for item, groups in enumerate(labels) for group in groups], np.int64
    ).reshape(-1, 2)
    return Diversifier(weight, *pairs.T, items, CPU)


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.9, 1.0]))
def test_equals_the_definition(case, weight):
    labels, items, found = case
    made = _diversifier(weight, labels, items).rerank(found)
    for user in range(len(found.row_Bk)):
        length = int((found.row_Bk[user] >= 0).sum())
        rows, scores = (x[user, :length].tolist() for x in (found.row_Bk, found.score_Bk))
        order = diversify_reference(scores, [sorted(labels[row]) for row in rows], weight)
        assert made.row_Bk[user].tolist() == [rows[i] for i in order] + [-1] * (
            made.row_Bk.shape[1] - length
        )
        assert made.score_Bk[user, :length].tolist() == [scores[i] for i in order]
        assert made.path_Bk[user, :length].tolist() == [rows[i] % 3 for i in order]


@settings(deadline=None, max_examples=30)
@given(cases(), st.integers(1, 12))
def test_what_it_maximises_is_what_entropy_at_k_measures(case, k):
    """With lambda = 1 each pick is one after which the metric is as high as any other pick would make it."""
    labels, items, found = case
    pairs = np.array(
        [(item, group) for item, groups in enumerate(labels) for group in groups], np.int64
    ).reshape(-1, 2)
    category = Categories.from_pairs("genre", list("abcdef"), *pairs.T, items)

    def entropy(rows):
        ranked = Ranked.of(np.array([rows]), np.zeros(1, np.int64), np.ones(1, np.int64), items)
        return ranked.values(len(rows), category)["entropy"][0]

    made = _diversifier(1.0, labels, items).rerank(found)
    for user in range(len(found.row_Bk)):
        rows = [row for row in made.row_Bk[user].tolist() if row >= 0]
        if k <= len(rows):
            best = max(entropy([*rows[: k - 1], other]) for other in rows[k - 1 :])
            assert entropy(rows[:k]) == pytest.approx(best, abs=1e-9)


def test_by_hand():
    """Relevance 1, .9, .5, 0; two items of one category, then one of another adds log2(3) - 2/3 log2(2) = .918 bits."""
    scores, categories = [2.0, 1.8, 1.0, 0.0], [[0], [0], [1], [2]]
    assert diversify_reference(scores, categories, 0.0) == [0, 1, 2, 3]
    assert diversify_reference(scores, categories, 0.2) == [
        0,
        1,
        2,
        3,
    ]  # .8 x .9 > .8 x .5 + .2 x 1
    assert diversify_reference(scores, categories, 0.3) == [
        0,
        2,
        1,
        3,
    ]  # .7 x .9 < .7 x .5 + .3 x 1
    assert diversify_reference(scores, categories, 0.9) == [0, 2, 3, 1]


def test_what_was_found_beyond_the_candidates_stays():
    row = torch.randperm(260)[None]
    found = Found(row, -torch.arange(260.0)[None], torch.zeros_like(row))
    made = _diversifier(0.9, [{item % 4} for item in range(260)], 260).rerank(found)
    assert made.row_Bk[0, CANDIDATES:].tolist() == row[0, CANDIDATES:].tolist()
    assert made.row_Bk[0, :CANDIDATES].tolist() != row[0, :CANDIDATES].tolist()
    assert sorted(made.row_Bk[0].tolist()) == list(range(260))


@settings(deadline=None, max_examples=20)
@given(cases())
def test_a_users_list_does_not_depend_on_who_is_beside(case):
    labels, items, found = case
    diversifier = _diversifier(0.4, labels, items)
    together = diversifier.rerank(found)
    for user in range(len(found.row_Bk)):
        one = slice(user, user + 1)
        alone = diversifier.rerank(
            Found(found.row_Bk[one], found.score_Bk[one], found.path_Bk[one])
        )
        assert torch.equal(alone.row_Bk[0], together.row_Bk[user])


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(UserError, match=r"evaluation.diversify = .* must be in \[0, 1\]"):
        RetrievalConfig(diversify=weight).check()
