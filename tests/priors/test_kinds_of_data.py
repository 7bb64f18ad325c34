"""Priors of a prepared data set: what they say of items, events and users is what the raw files say."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from edited_manifest import describe_again
from small_movielens import read_sequences

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import PRIOR_KINDS
from torchrec_priors.priors import random as random_groups
from torchrec_priors.priors.load import load_prior
from torchrec_priors.priors.prior import Targets, needs_of
from torchrec_priors.priors.tree import PriorTree

HORIZON = 8


@pytest.fixture(scope="module")
def data(small_data):
    return PreparedData(small_data)


def _targets(**columns):
    empty = torch.zeros(len(next(iter(columns.values()))), dtype=torch.int64)
    return Targets(
        **{
            "item_M": empty,
            "offset_M": empty + 1,
            **{k: torch.tensor(v) for k, v in columns.items()},
        }
    )


def test_an_event_prior_knows_the_stars_and_retrieves_what_saw_them_in_training(data, small_raw):
    prior = load_prior("rating", data, HORIZON)
    index, group = prior.members(_targets(event_M=[4, 0, 4]))
    assert [(i, prior.groups[g]) for i, g in zip(index.tolist(), group.tolist(), strict=True)] == [
        (0, "5 stars"), (1, "1 star"), (2, "5 stars"),
    ]  # fmt: skip
    films = data.catalogue(["item_id"])["item_id"].to_pylist()
    saw = {
        (rating.film, rating.stars)
        for ratings in read_sequences(small_raw, HORIZON).values()
        for rating in ratings[: -2 * HORIZON]
    }
    row, group = prior.eligible(0, data.items)
    assert {(films[r], int(prior.groups[g][0])) for r, g in zip(row, group, strict=True)} == saw
    assert prior.restricts_items
    assert needs_of(prior) == ("events",)


def test_a_user_prior_knows_who_a_user_is(data, small_raw):
    prior = load_prior("gender", data, HORIZON)
    people = [line.split("|") for line in (small_raw / "u.user").read_text().splitlines()]
    gender = {int(person[0]): person[2] for person in people}
    users = list(read_sequences(small_raw, HORIZON))  # ascending, as in the files
    index, group = prior.members(_targets(user_M=list(range(data.users))))
    assert index.tolist() == list(range(data.users))
    assert [prior.groups[g] for g in group.tolist()] == [gender[user] for user in users]
    assert not prior.restricts_items
    assert needs_of(prior) == ("users",)
    assert torch.equal(prior.groups_of_users(torch.tensor([3, 1]))[1], group[[3, 1]])


@pytest.mark.parametrize("ids", [["b", "c", "x"], [7, 9, 30]], ids=str)
def test_users_are_matched_by_their_original_ids_of_any_type(ids, caplog):
    chunks = [pa.chunked_array([ids[:2]]), pa.chunked_array([ids[2:]])]
    table = pa.table({"user_id": [ids[2], ids[0], type(ids[0])(0), ids[0]], "group": [1, 0, 0, 2]})
    files = SimpleNamespace(table=lambda *_: table)
    data = SimpleNamespace(row_groups=[0, 1], user_ids=chunks.__getitem__, _files=files)
    with caplog.at_level("INFO", logger="torchrec_priors"):
        user, group = PreparedData.user_pairs(data, "who")
    assert list(zip(user.tolist(), group.tolist(), strict=True)) == [(2, 1), (0, 0), (0, 2)]
    assert "prior 'who': 1 rows are of users that the data set lacks" in caplog.text


@pytest.fixture
def copied(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    return tmp_path / "data"


def _change_manifest(folder, change):
    manifest = read_json(folder / "manifest.json", remedy="")
    change(manifest)
    write_json(folder / "manifest.json", manifest)


def test_a_user_in_no_group_is_refused(copied):
    file = copied / "priors" / "gender.parquet"
    whole = pq.read_table(file)
    pq.write_table(whole.slice(1), file)
    describe_again(copied, "priors/gender.parquet")
    with pytest.raises(
        UserError, match=r"prior 'gender': 1 of 77 users are in no group: put them into a group"
    ):
        load_prior("gender", PreparedData(copied), HORIZON)
    texts = whole.set_column(0, "user_id", whole["user_id"].cast(pa.string()))
    pq.write_table(texts, file)
    describe_again(copied, "priors/gender.parquet")
    with pytest.raises(UserError, match="its user ids are of another type"):
        load_prior("gender", PreparedData(copied), HORIZON)


def test_a_graph_prior_of_the_data_is_one_of_items(copied):
    groups = {
        "name": "coclick",
        "kind": "graph",
        "groups": ["c1", "c2"],
        "sizes": [75, 75],
        "eligible": False,
    }
    _change_manifest(copied, lambda m: m["priors"].append(groups))
    pairs = {
        "item": pa.array(range(150), pa.int32()),
        "group": pa.array([row % 2 for row in range(150)], pa.int32()),
    }
    pq.write_table(pa.table(pairs), copied / "priors" / "coclick.parquet")
    describe_again(copied, "priors/coclick.parquet")
    data = PreparedData(copied)
    prior = load_prior("coclick", data, HORIZON)
    assert prior.restricts_items
    row, group = prior.eligible(10, 14)
    assert (row.tolist(), group.tolist()) == ([10, 11, 12, 13], [0, 1, 0, 1])
    assert len(load_prior("all:coclick", data, HORIZON).groups) == 2
    assert load_prior("graph:coclick", data, HORIZON).name == "coclick"


@pytest.mark.parametrize("name", PRIOR_KINDS)
def test_a_prior_named_like_a_kind_is_meant_by_its_name(name, copied):
    """As the marketplace's `event`."""

    def rename(manifest):
        (gender,) = (prior for prior in manifest["priors"] if prior["name"] == "gender")
        gender["name"] = name

    _change_manifest(copied, rename)
    shutil.copy(copied / "priors" / "gender.parquet", copied / "priors" / f"{name}.parquet")
    describe_again(copied, f"priors/{name}.parquet")
    data = PreparedData(copied)
    for specification in (name, f"user:{name}"):
        assert load_prior(specification, data, HORIZON).groups == data.manifest.prior(name).groups
    assert load_prior("item:genre", data, HORIZON).name == "genre"


def test_a_kind_that_this_version_does_not_know_is_named(copied):
    def change(manifest):
        manifest["priors"][0]["kind"] = "lunar"

    _change_manifest(copied, change)
    says = "'genre' is a prior of an unknown kind, 'lunar': valid: all:n, random:n, temporal:n, rating, age"
    with pytest.raises(UserError, match=re.escape(says)):
        load_prior("genre", PreparedData(copied), HORIZON)


def test_a_number_of_random_groups_is_uniform_one_an_item_and_follows_from_seed_and_row(data):
    prior = load_prior("random:19", data, HORIZON)
    assert len(prior.groups) == 19
    assert prior.groups[:2] == ["random 1", "random 2"]
    row, group = prior.eligible(0, data.items)
    assert row.tolist() == list(range(data.items))
    assert (
        load_prior("random:19:0", data, HORIZON).eligible(0, data.items)[1].tolist()
        == group.tolist()
    )
    assert (
        load_prior("random:19:7", data, HORIZON).eligible(0, data.items)[1].tolist()
        != group.tolist()
    )
    rows = np.arange(50_000)
    drawn = random_groups.draw(rows, 3, 19)
    counts = np.bincount(drawn, minlength=19)
    expected = len(rows) / 19
    assert ((counts - expected) ** 2 / expected).sum() < 42.3, (
        "chi-square of 18 degrees of freedom at .999"
    )
    assert random_groups.draw(rows[100:200], 3, 19).tolist() == drawn[100:200].tolist()


def _label_sets(prior, entities):
    """Of each item or user."""
    pairs = (
        prior.eligible(0, entities)
        if prior.restricts_items
        else prior.groups_of_users(torch.arange(entities))
    )
    found = [set() for _ in range(entities)]
    for entity, group in zip(*(values.tolist() for values in pairs), strict=True):
        found[entity].add(group)
    return [tuple(sorted(groups)) for groups in found]


@pytest.mark.parametrize("name", ["genre", "age", "gender"])
def test_a_random_prior_deals_the_label_sets_of_another_anew(name, data):
    prior = load_prior(name, data, HORIZON)
    entities = data.items if prior.restricts_items else data.users
    real = _label_sets(prior, entities)
    if name == "genre":
        assert len({len(labels) for labels in real}) > 1, "several labels an item"
    dealt = _label_sets(load_prior(f"random:{name}", data, HORIZON), entities)
    assert sorted(dealt) == sorted(real), "sizes and multiplicities stay"
    assert dealt != real
    assert _label_sets(load_prior(f"random:{name}:0", data, HORIZON), entities) == dealt
    assert _label_sets(load_prior(f"random:{name}:7", data, HORIZON), entities) != dealt


def test_random_priors_of_one_seed_keep_how_groups_of_several_priors_overlap(data):
    real, dealt = (
        [
            _label_sets(load_prior(kind + name, data, HORIZON), data.users)
            for name in ("age", "gender")
        ]
        for kind in ("", "random:")
    )
    assert sorted(zip(*dealt, strict=True)) == sorted(zip(*real, strict=True))


def _segments(specification, data, horizon):
    """The offsets of each segment."""
    prior = load_prior(specification, data, horizon)
    offset_M = list(range(1, horizon + 1))
    index, group = prior.members(_targets(item_M=[0] * horizon, offset_M=offset_M))
    assert index.tolist() == list(range(horizon))
    return [sorted((np.flatnonzero(group == one) + 1).tolist()) for one in range(len(prior.groups))]


@pytest.mark.parametrize(
    ("segments", "horizon"), [(2, 4), (4, 8), (2, 8), (4, 16), (3, 24), (8, 32)]
)
@pytest.mark.parametrize("seed", range(4))
def test_random_segments_of_time_are_equally_soon(data, segments, horizon, seed):
    dealt = _segments(f"random:temporal:{segments}:{seed}", data, horizon)
    assert [len(one) for one in dealt] == [horizon // segments] * segments
    assert sorted(offset for one in dealt for offset in one) == list(range(1, horizon + 1))
    assert {np.mean(one) for one in dealt} == {(horizon + 1) / 2}


@pytest.mark.parametrize(("segments", "horizon"), [(2, 6), (3, 9), (4, 20)])
def test_random_segments_of_odd_length_differ_by_a_middle_offset(data, segments, horizon):
    dealt = _segments(f"random:temporal:{segments}", data, horizon)
    assert [len(one) for one in dealt] == [horizon // segments] * segments
    sums = [sum(one) for one in dealt]
    assert max(sums) - min(sums) == segments - 1


def test_random_segments_of_time_depend_on_the_seed(data):
    prior = load_prior("random:temporal:2", data, 16)
    assert (prior.groups, prior.restricts_items) == (["random 1", "random 2"], False)
    seeds = [_segments(f"random:temporal:2{seed}", data, 16) for seed in ("", ":0", ":7")]
    assert seeds[0] == seeds[1] != seeds[2]


def test_random_segments_of_one_offset_are_no_control(data):
    with pytest.raises(UserError, match="would be the prior that it controls"):
        load_prior("random:temporal:8", data, 8)
    with pytest.raises(UserError, match="'temporal:3' does not divide"):
        load_prior("random:temporal:3", data, 8)


def test_labels_that_were_dealt_stay_when_data_grow():
    before, after = random_groups.deal([50], 3), random_groups.deal([50, 80], 3)
    assert after[:50].tolist() == before.tolist()
    assert sorted(after[50:].tolist()) == list(range(50, 80))


def test_the_control_of_all_has_every_item_in_every_group(data):
    prior = load_prior("all:3", data, HORIZON)
    tree = PriorTree([prior], data.items)
    assert [path.name for path in tree.paths] == ["all 1", "all 2", "all 3"]
    assert tree.item_sets == 1
    assert tree.eligible(0, data.items)[0].tolist() == list(range(data.items))
    index, path = tree.assign(_targets(item_M=[5, 6]))
    assert (index.tolist(), path.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1, 2] * 2)


def test_the_control_of_all_has_heads_for_groups_that_have_members_alone(data):
    genre = load_prior("genre", data, HORIZON)
    assert len(PriorTree([load_prior("all:genre", data, HORIZON)], data.items).paths) == len(
        PriorTree([genre], data.items).paths
    )
    gender = PriorTree([load_prior("all:gender", data, HORIZON)], data.items)
    assert (
        len(gender.paths)
        == len(PriorTree([load_prior("gender", data, HORIZON)], data.items).paths)
        == 2
    )


def test_a_prior_that_needs_what_there_is_not_is_explained():
    with pytest.raises(UserError, match="prior 'mine' needs 'event': did you mean 'events'"):
        needs_of(SimpleNamespace(name="mine", needs=("event",)))
