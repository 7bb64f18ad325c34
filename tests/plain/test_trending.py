"""Trending: what everybody had in the hours before a user's last interaction, and nothing later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_logs import MadeUp, logs

from torchrec_priors.data.histories import history_batches, target_bounds
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.errors import UserError
from torchrec_priors.plain import trending
from torchrec_priors.plain.log import Log
from torchrec_priors.plain.plain import check_plain, fit_plain
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.retrieval.plain_lists import PlainLists
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.plain import PlainConfig
from torchrec_priors.settings.training import TrainingConfig

MS = 1 / 3_600_000  # a millisecond in hours


def _load(made, hours):
    return trending.load(trending.Options(hours=hours), made.log)


@settings(max_examples=80, deadline=None)
@given(logs().filter(lambda made: made.times), st.integers(1, 12), st.integers(0, 9))
def test_trending_counts_the_window_before_the_last_interaction(made, length, new_time):
    # The users of the log, and one who is not in it.
    histories = [*made.histories, [0]]
    times = [*made.times, [new_time]]
    scores = _load(made, length * MS).scores(made.batch(histories, times))
    for user, own_times in enumerate(times):
        last = own_times[-1]
        for item in range(made.items):
            expected = 0
            for other, history in enumerate(made.histories):
                for its, time in zip(history, made.times[other], strict=True):
                    expected += its == item and last - length <= time <= last
            assert scores[user, item] == expected


def test_both_ends_of_the_window_count_and_nothing_after_it():
    made = MadeUp([[0, 1, 2, 3], [4]], 5, [[0, 1, 3_600_001, 3_600_002], [3_600_001]])
    scores = _load(made, 1.0).scores(made.batch([[4]], [[3_600_001]]))
    assert scores.tolist() == [[0, 1, 1, 0, 1]]


def test_a_user_without_a_history_gets_the_end_of_the_training_part():
    made = MadeUp([[0, 1], [2, 1]], 4, [[0, 9], [7, 8]])
    batch = made.batch([[0], [], [3]], [[0], [], [2]])
    scores = _load(made, 2 * MS).scores(batch)
    assert scores.tolist() == [[1, 0, 0, 0], [0, 2, 1, 0], [1, 0, 0, 0]]


def test_equal_counts_are_in_order_of_popularity():
    made = MadeUp([[2, 2, 3], [0], [1]], 4, [[0, 0, 50], [90], [90]])
    lists = PlainLists(_load(made, 10 * MS), made.log.order_I, RetrievalConfig(), made.data, 4)
    found = lists.find(made.batch([[3], [3]], [[90], [70]]))[0].row_Bk.tolist()
    assert found == [[0, 1, 2, -1], [2, 0, 1, -1]]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_training_interactions_that_precede_the_targets_count(small_data, split):
    data = PreparedData(small_data)
    log = Log.of(data, training_ends(data, TrainingConfig()))
    hours = 24.0
    plain = fit_plain(PlainConfig("trending", {"hours": hours}), log)

    known = []  # (time, item) of the training part
    last = []  # the time before the targets of each user
    starts = target_bounds(data, split)[0]
    for group in data.row_groups:
        read = data.read_users(group, ["timestamps"])
        for index in range(group.users):
            end = data.training_ends[group.first_user + index]
            times = read.columns_of(index)["timestamps"]
            known += zip(times[:end], read.history(index)[:end], strict=True)
            last.append(times[starts[group.first_user + index] - 1])

    counted = 0
    for users in history_batches(data, split, context=1, batch=7, columns=plain.columns):
        scores = plain.scores(users)
        for row, user in enumerate(users.users):
            expected = np.zeros(data.items)
            for time, item in known:
                expected[item] += last[user] - hours * 3_600_000 <= time <= last[user]
            np.testing.assert_array_equal(scores[row], expected)
            counted += expected.sum()
    assert counted


def test_a_log_without_times_is_refused_in_one_line():
    with pytest.raises(UserError) as raised:
        fit_plain(PlainConfig("trending"), MadeUp([[0, 1]], 2).log)
    assert str(raised.value) == (
        "plain.name = 'trending' needs times, which data set 'made up' does not have: use "
        "popularity, with plain.options.recent for the last part of each history"
    )


def test_hours_must_be_positive():
    with pytest.raises(UserError, match=r"plain\.options\.hours = 0 must be positive"):
        check_plain(PlainConfig("trending", {"hours": 0}))
