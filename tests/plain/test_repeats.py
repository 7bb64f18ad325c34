"""Repeats: the items of the user's own history, by how often and how lately it has them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_logs import MadeUp, logs

from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.plain import repeats
from torchrec_priors.plain.plain import check_plain
from torchrec_priors.retrieval.plain_lists import PlainLists
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.plain import PlainConfig


def _scores(made, histories=None, **options):
    return repeats.load(repeats.Options(**options), made.log).scores(made.batch(histories))


@settings(max_examples=60, deadline=None)
@given(logs(), st.sampled_from([0.0, 0.3, 2.0, 50.0]), st.sampled_from([0, 1, 3, 100]))
def test_repeats_add_the_weights_of_the_occurrences(made, half_life, last):
    scores = _scores(made, half_life=half_life, last=last)
    for user, history in enumerate(made.histories):
        used = history[-last:] if last else history
        for item in range(made.items):
            expected = 0
            for age, other in enumerate(reversed(used)):
                if other == item:
                    expected += 0.5 ** (age / half_life) if half_life else 1
            assert scores[user, item] == pytest.approx(expected)


def test_a_half_life_halves():
    scores = _scores(MadeUp([[0, 1, 1, 2]], 4), half_life=1.0)
    assert scores.tolist() == [[1 / 8, 1 / 4 + 1 / 2, 1, 0]]


def test_items_of_the_history_come_before_all_others_however_old_they_are():
    history = [3] + [0] * 3000
    made = MadeUp([history, [1, 1, 2]], 4)
    scores = _scores(made, half_life=0.1)
    assert scores[0, 3] > 0
    assert (scores[0, [1, 2]] == 0).all()


def test_equal_counts_and_items_without_one_are_in_order_of_popularity():
    made = MadeUp([[0, 2], [2, 1], [3, 3, 3], [2, 4]], 5)
    plain = repeats.load(repeats.Options(), made.log)
    config = RetrievalConfig(filter_seen=False)
    lists = PlainLists(plain, made.log.order_I, config, made.data, 5)
    found = lists.find(made.batch([[1, 0], [4, 4, 2], []]))[0].row_Bk.tolist()
    # By popularity: 2 and 3 (3 times each), 0, 1 and 4 (once each).
    assert found == [[0, 1, 2, 3, 4], [4, 2, 3, 0, 1], [2, 3, 0, 1, 4]]


def test_it_is_refused_where_seen_items_are_filtered(tmp_path):
    file = tmp_path / "config.toml"
    # A plain baseline has no negatives, so this setting does not matter.
    file.write_text("negatives.seen = false\n")
    plain = ["plain.name=repeats", "priors.tree=[]"]
    with pytest.raises(UserError) as raised:
        load_config(file, plain)
    assert str(raised.value) == (
        "plain.name = 'repeats' recommends what the history has, which is filtered: give "
        "evaluation.filter_seen=false"
    )
    assert load_config(file, [*plain, "evaluation.filter_seen=false"]).plain.of_seen_items
    assert not load_config(file, ["plain.name=ease", "priors.tree=[]"]).plain.of_seen_items


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"half_life": -1}, "plain.options.half_life = -1 must not be negative"),
        ({"last": -1}, "plain.options.last = -1 must not be negative"),
        ({"halflife": 1.0}, "repeats has no 'halflife': did you mean 'half_life'?"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError) as raised:
        check_plain(PlainConfig("repeats", options))
    assert message in str(raised.value)


def test_it_keeps_no_numbers_and_needs_no_times():
    plain = repeats.load(repeats.Options(), MadeUp([[0]], 2).log)
    assert plain.numbers == 0
    assert plain.columns == ()
    assert np.array_equal(plain.scores(MadeUp([[0]], 2).batch()), [[1, 0]])
