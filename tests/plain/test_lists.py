"""The lists of plain baselines: the best items, in an order that nothing leaves open."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_logs import MadeUp

from torchrec_priors.data.histories import Histories
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.plain import ease, item_knn, popularity, repeats, transitions, trending
from torchrec_priors.plain.log import Log
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.retrieval.plain_lists import PlainLists, best
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.training import TrainingConfig

SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 12))
def test_the_best_are_the_first_of_all_sorted_by_score_and_popularity(data, items, k):
    users = data.draw(st.integers(1, 3))
    row = st.lists(SCORES, min_size=items, max_size=items)
    score_BI = np.array(data.draw(st.lists(row, min_size=users, max_size=users)))
    order = data.draw(st.permutations(range(items)))
    rows, scores = best(score_BI, np.array(order), k)
    for user in range(users):
        allowed = [item for item in order if score_BI[user, item] > -np.inf]
        expected = sorted(allowed, key=lambda item: -score_BI[user, item])[:k]  # a stable sort
        found = rows[user][: len(expected)].tolist()
        assert found == expected
        assert scores[user][: len(expected)].tolist() == score_BI[user, expected].tolist()
        assert (rows[user][len(expected) :] == -1).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from([1, 10, 200, 2000]),
    st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    st.sampled_from([0.0, 0.9, 1.0]),
)
def test_the_best_of_many_items_are_found_whatever_the_scores_are(seed, k, counted, left_out):
    random = np.random.default_rng(seed)
    items = int(random.integers(1, 1500))
    # Counts with many equal values, or scores that are all different.
    score_I = random.choice([random.poisson(2, items), random.normal(size=items)])
    score_I[random.random(items) >= counted] = 0
    score_I[random.random(items) < left_out * random.random()] = -np.inf
    if random.random() < 0.3:
        score_I.sort()  # so that a sample of every n-th item is as wrong as it can be
    order = random.permutation(items)

    rows, scores = best(score_I[None], order, k)
    expected = sorted(order.tolist(), key=lambda item: -score_I[item])[:k]
    expected = [item for item in expected if score_I[item] > -np.inf]
    assert rows[0][: len(expected)].tolist() == expected
    assert scores[0][: len(expected)].tolist() == score_I[expected].tolist()
    assert (rows[0][len(expected) :] == -1).all()


def test_a_guess_that_is_too_high_costs_time_only():
    # Every fourth item, of which the sample is made, has a high score.
    score_I = np.where(np.arange(1024) % 4 == 0, 1000.0, np.arange(1024.0) - 1024)
    rows, _ = best(score_I[None], np.arange(1024), 400)
    expected = np.argsort(-score_I, kind="stable")[:400]
    assert rows[0].tolist() == expected.tolist()


def test_seen_items_are_left_out_if_they_are_filtered():
    made = MadeUp([[0, 1], [2]], 4)
    plain = SimpleNamespace(scores=lambda users: np.tile([4.0, 3.0, 2.0, 1.0], (len(users), 1)))
    batch = made.batch()

    def rows(**config):
        lists = PlainLists(plain, np.arange(4), RetrievalConfig(**config), made.data, 3)
        return lists.find(batch)[0].row_Bk.tolist()

    assert rows() == [[2, 3, -1], [0, 1, 3]]
    assert rows(filter_seen=False) == [[0, 1, 2], [0, 1, 2]]


def test_a_rank_may_have_no_users_in_its_last_round():
    made = MadeUp([[0, 1]], 4, times=[[5, 6]])
    nobody = Histories.of(pa.array([], pa.int64()), [], [], 1, {"timestamps": []})
    for module in (popularity, trending, repeats, item_knn, transitions, ease):
        plain = module.load(module.Options(), made.log)
        lists = PlainLists(plain, made.log.order_I, RetrievalConfig(), made.data, 3)
        assert lists.find(nobody)[0].row_Bk.shape == (0, 3)


@pytest.mark.parametrize("fit_all", [False, True])
def test_a_log_has_the_training_part_only(small_data, fit_all):
    data = PreparedData(small_data)
    log = Log.of(data, training_ends(data, TrainingConfig(fit_all=fit_all)))
    items, times, users = [], [], []
    for group in data.row_groups:
        read = data.read_users(group, ["timestamps"])
        for index in range(group.users):
            history = read.history(index)
            kept = len(history) if fit_all else len(history) - 2 * data.manifest.horizon
            items += history[:kept].tolist()
            times += read.columns_of(index)["timestamps"][:kept].tolist()
            users += [group.first_user + index] * kept
    assert log.item_N.tolist() == items
    assert log.user_N.tolist() == users
    assert log.times().tolist() == times
    if not fit_all:
        counted = data.catalogue(["frequency"])["frequency"].to_numpy()
        np.testing.assert_array_equal(log.frequency_I, counted)
