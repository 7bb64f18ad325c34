"""Without a history, each path ranks its items by the interactions of its own events and users."""

import math

import numpy as np
import pytest
import tiny
from serving.conftest import SETTINGS

from torchrec_priors import Levers, Request, UserContext, load_run
from torchrec_priors.config import parse
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.serving import popular
from torchrec_priors.serving.catalogue import texts
from torchrec_priors.serving.popular import Popularity

TREES = [
    (["temporal:2", "genre"], "hierarchical"),
    (["temporal:2", "gender", "rating", "genre"], "additive"),
    (["gender", "rating"], "hierarchical"),
]


def _interactions(data, ends):
    """(item, event, user) of every training interaction, one after another."""
    for group in data.row_groups:
        users = data.read_users(group, ["events"])
        for place in range(group.users):
            number = group.first_user + place
            last = int(ends[number])
            items = users.history(place)[:last].tolist()
            events = users.columns_of(place)["events"][:last].tolist()
            yield from zip(items, events, [number] * last, strict=True)


@pytest.mark.parametrize(("levels", "composition"), TREES)
def test_counts_are_those_of_the_definition(small_data, levels, composition):
    data = PreparedData(small_data)
    config = tiny.config(priors={"tree": levels, "composition": composition})
    tree = load_tree(config.priors, data, config.model.horizon)
    ends = data.training_ends
    log = list(_interactions(data, ends))
    groups_of_user = {}
    for user, group in zip(*data.user_pairs("gender"), strict=True):
        groups_of_user.setdefault(int(user), set()).add(int(group))
    group_of_event = dict(
        zip(*map(np.ndarray.tolist, data.prior_pairs("rating", "event")), strict=True)
    )

    found = Popularity.of(tree, data, ends)
    overall = np.bincount([item for item, _, _ in log], minlength=data.items) + 1.0
    overall /= len(log) + data.items
    for number, path in enumerate(tree.paths):
        groups = {
            tree.levels[level].name: group
            for level, group in zip(path.levels, path.groups, strict=True)
        }
        of_users = [
            one
            for one in log
            if "gender" not in groups or groups["gender"] in groups_of_user[one[2]]
        ]
        own = [
            one for one in of_users
            if "rating" not in groups or group_of_event[one[1]] == groups["rating"]
        ]  # fmt: skip
        counts = np.bincount([item for item, _, _ in own], minlength=data.items)
        expected = np.log((counts + overall) / (len(of_users) + 1))
        scores = found.score_IM[:, found.class_K[number]].numpy()
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_only_the_first_interactions_of_a_large_log_are_counted(small_data, monkeypatch, caplog):
    data = PreparedData(small_data)
    config = tiny.config(priors={"tree": ["gender"]})
    tree = load_tree(config.priors, data, config.model.horizon)
    monkeypatch.setattr(popular, "_MOST_INTERACTIONS", 1)
    with caplog.at_level("INFO", logger="torchrec_priors"):
        Popularity.of(tree, data, data.training_ends)
    assert ("popularity is counted in the first" in caplog.text) == (len(data.row_groups) > 1)


def test_a_new_user_gets_what_is_popular_and_it_is_said(run):
    with load_run(run) as loaded:
        frequency = loaded.data.catalogue(["frequency"])["frequency"].to_numpy()
        order = np.lexsort((np.arange(len(frequency)), -frequency))
        most = [loaded.catalogue.item_id(int(row)) for row in order]
        genres = loaded.data.manifest.prior("genre").groups
        item, group = loaded.data.prior_pairs("genre", "item")
        comedies = {
            loaded.catalogue.item_id(int(row)) for row in item[group == genres.index("Comedy")]
        }

        nobody = loaded.recommend(user="nobody", k=20)
        assert (nobody.source, nobody.skipped.users) == ("popularity", 1)
        assert [one.item_id for one in nobody] == most[:20]
        assert loaded.recommend([], k=20) == nobody.items
        total = frequency.sum()
        chance = (frequency[order[0]] + (frequency[order[0]] + 1) / (total + len(order))) / (
            total + 1
        )
        assert nobody[0].score == pytest.approx(math.log(chance), abs=1e-4)
        assert nobody[0].head_scores[nobody[0].head] == nobody[0].score

        funny = loaded.answer([Request(UserContext(), k=9, levers=Levers(only=["Comedy"]))])[0]
        assert [one.item_id for one in funny] == [one for one in most if one in comedies][:9]
        denied = loaded.recommend([], k=5, deny=most[:3])
        assert [one.item_id for one in denied] == most[3:8]
        assert loaded.recommend(user=9).source == "model"


def test_groups_of_a_new_user_decide(trained, small_data):
    priors = {"tree": ["gender"]}
    run = trained(parse(tiny.merged(SETTINGS, priors=priors)))
    data = PreparedData(small_data)
    user, group = data.user_pairs("gender")
    names = data.manifest.prior("gender").groups
    for name in ("F", "M"):
        members = set(user[group == names.index(name)].tolist())
        log = _interactions(data, data.training_ends)
        items = [item for item, _, one in log if one in members]
        counts = np.bincount(items, minlength=data.items)
        with load_run(run) as loaded:
            found = loaded.recommend([], groups={"gender": name}, k=10)
            assert {head for item in found for head in item.head_scores} == {name}
            rows = loaded.catalogue.find(texts([item.item_id for item in found]))
            assert counts[rows].tolist() == sorted(counts, reverse=True)[:10]
