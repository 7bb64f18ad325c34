"""Each plain baseline equals its definition, written with loops."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_logs import MadeUp, logs

from torchrec_priors.errors import UserError
from torchrec_priors.plain import ease, item_knn, popularity, transitions
from torchrec_priors.plain.plain import check_plain, fit_plain
from torchrec_priors.settings.plain import PlainConfig

few = settings(max_examples=60, deadline=None)


def _last(history, last):
    return set(history[-last:] if last else history)


@few
@given(logs(), st.sampled_from([0.05, 0.3, 0.5, 1.0]), st.booleans())
def test_popularity_counts_the_last_interactions_of_the_groups_of_a_user(made, share, grouped):
    counted = []  # (user, item)
    if made.times is None:
        for user, history in enumerate(made.histories):
            kept = math.ceil(share * len(history))
            counted += [(user, item) for item in history[-kept:]]
    else:
        all_times = sorted(time for times in made.times for time in times)
        cut = all_times[-math.ceil(share * len(all_times))]
        for user, history in enumerate(made.histories):
            for item, time in zip(history, made.times[user], strict=True):
                if time >= cut:
                    counted.append((user, item))

    options = popularity.Options(recent=share, prior="club" if grouped else "")
    scores = popularity.load(options, made.log).scores(made.batch())
    for user in range(len(made.histories)):
        groups = {group for other, group in made.user_groups if other == user} if grouped else set()
        for item in range(made.items):
            expected = 0
            if groups:
                for group in groups:
                    members = {other for other, its in made.user_groups if its == group}
                    expected += sum(other in members and i == item for other, i in counted)
            else:
                expected = sum(i == item for _, i in counted)
            assert scores[user, item] == expected


@few
@given(
    logs(),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0.0, 0.5, 10.0]),
    st.sampled_from([0, 1, 3]),
)
def test_item_knn_adds_the_shrunk_cosines_of_neighbours(made, neighbours, shrinkage, last):
    users = [set(history) for history in made.histories]
    count = [sum(item in seen for seen in users) for item in range(made.items)]
    popular = Counter(item for history in made.histories for item in history)

    similar = {}
    for i in range(made.items):
        found = []
        for j in range(made.items):
            both = sum(i in seen and j in seen for seen in users)
            if i != j and both:
                found.append((both / (math.sqrt(count[i] * count[j]) + shrinkage), j))
        found.sort(key=lambda pair: (-pair[0], -popular[pair[1]], pair[1]))
        similar[i] = {j: value for value, j in found[: neighbours or None]}

    options = item_knn.Options(neighbours=neighbours, shrinkage=shrinkage, last=last)
    scores = item_knn.load(options, made.log).scores(made.batch())
    for user, history in enumerate(made.histories):
        for j in range(made.items):
            expected = sum(similar[i].get(j, 0) for i in _last(history, last))
            assert scores[user, j] == pytest.approx(expected)


@few
@given(logs(), st.booleans(), st.sampled_from([0.5, 10.0]))
def test_transitions_estimate_what_follows_the_last_item(made, grouped, weight):
    pairs = [pair for history in made.histories for pair in pairwise(history)]

    def followed(sources):
        """j -> how often it followed one of these items."""
        return Counter(j for source in sources for i, j in pairs if i == source)

    options = transitions.Options(prior="kind" if grouped else "", weight=weight)
    scores = transitions.load(options, made.log).scores(made.batch())
    for user, history in enumerate(made.histories):
        i = history[-1]
        of_item = followed([i])
        groups = [group for item, group in made.item_groups if item == i]
        for j in range(made.items):
            expected = of_item[j] / max(of_item.total(), 1)
            if grouped:
                borrowed = []
                for group in groups:
                    members = [item for item, its in made.item_groups if its == group]
                    of_group = followed(members)
                    borrowed.append(of_group[j] / max(of_group.total(), 1))
                q = sum(borrowed) / max(len(borrowed), 1)
                expected = (of_item[j] + weight * q) / max(of_item.total() + weight, 1)
            assert scores[user, j] == pytest.approx(expected)


@few
@given(logs(), st.sampled_from([0.5, 3.0, 100.0]), st.sampled_from([0, 2]))
def test_ease_is_the_ridge_regression_of_each_item_on_all_others(made, l2, last):
    marks = np.zeros((len(made.histories), made.items))
    for user, history in enumerate(made.histories):
        marks[user, history] = 1

    weights = np.zeros((made.items, made.items))
    for j in range(made.items):
        others = [i for i in range(made.items) if i != j]
        x = marks[:, others]
        gram = x.T @ x + l2 * np.eye(len(others))
        weights[others, j] = np.linalg.solve(gram, x.T @ marks[:, j])

    scores = ease.load(ease.Options(l2=l2, last=last), made.log).scores(made.batch())
    for user, history in enumerate(made.histories):
        expected = sum(weights[i] for i in _last(history, last))
        np.testing.assert_allclose(scores[user], expected, atol=1e-9)


def test_many_items_are_computed_block_by_block(monkeypatch):
    random = np.random.default_rng(0)
    made = MadeUp([random.integers(0, 50, 12).tolist() for _ in range(40)], 50)
    whole = item_knn.load(item_knn.Options(neighbours=5), made.log).scores(made.batch())
    monkeypatch.setattr(item_knn, "_ROWS", 7)
    np.testing.assert_array_equal(
        item_knn.load(item_knn.Options(neighbours=5), made.log).scores(made.batch()), whole
    )


def test_ease_refuses_a_large_catalogue_in_one_line(monkeypatch):
    monkeypatch.setattr(ease, "MOST_ITEMS", 3)
    with pytest.raises(UserError, match=r"4 items are more than 3: use item_knn$"):
        ease.load(ease.Options(), MadeUp([[0, 3]], 4).log)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PlainConfig("eas"), "plain.name: there is no 'eas': did you mean 'ease'?"),
        (PlainConfig("ease", {"l3": 1}), "plain.options: ease has no 'l3': did you mean 'l2'?"),
        (PlainConfig("ease", {"l2": 0}), "plain.options.l2 = 0 must be positive"),
        (PlainConfig("ease", {"l2": "much"}), "'l2' = 'much': input should be a valid number"),
        (
            PlainConfig("popularity", {"recent": 2.0}),
            "plain.options.recent = 2.0 must be in (0, 1]",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_fitted(config, message):
    with pytest.raises(UserError) as raised:
        check_plain(config)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["popularity", "transitions"])
def test_a_prior_must_exist_and_be_of_a_kind_that_is_used(name):
    log = MadeUp([[0, 1]], 2).log
    wrong = {"popularity": "kind", "transitions": "club"}[name]
    with pytest.raises(UserError, match=r"plain\.options\.prior: data set 'made up' has no"):
        fit_plain(PlainConfig(name, {"prior": wrong}), log)
