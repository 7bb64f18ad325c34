"""Priors that were computed or added stay for what was there; what is new is in the group of the rest, as is said."""

from pathlib import Path

import pytest
from prepared_log import item_ids, labels
from small_movielens import Rating, read_ratings, write_movielens, write_ratings

from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.priors import remake
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.attribute import from_attribute
from torchrec_priors.preparation.priors.communities.prior import communities
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.priors.mapping import from_mapping
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import PriorInfo, read_manifest

REST = {"community": "others", "crowd": "other users", "job": "others", "mood": "no mood"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """(folder, what the priors were, what was said) of films and users that came later."""
    folder = tmp_path_factory.mktemp("priors")
    raw, out = write_movielens(folder / "raw", users=40, items=60), folder / "data"
    prepare(Settings("movielens", raw, 2), out)
    moods = folder / "moods.csv"
    moods.write_text("item_id,label\n1,light\n2,dark\n")
    for name, make in {
        "community": lambda data: communities(GraphPrior("community", groups=3, min_size=2), data),
        "crowd": lambda data: communities(UserPrior("crowd", min_size=1), data),
        "job": lambda data: from_attribute("occupation", data, groups=None, min_size=1),
        "mood": lambda data: from_mapping("mood", "item_id", moods, data),
    }.items():
        add_prior(out, name, make(PreparedData(out)), read_manifest(out))
    before = read_manifest(out), {name: labels(out, name) for name in REST}
    new = write_movielens(folder / "new", users=50, items=70, seed=3)
    ratings = [
        Rating(user, film, 3, 10**9 + film) for user in (1, 45, 46) for film in range(58, 68)
    ]
    write_ratings(new, ratings)
    assert {rating.film for rating in read_ratings(new)} - set(range(1, 61))
    return out, before, append(new, out)


@pytest.mark.parametrize("name", REST)
def test_the_groups_stay_and_the_rest_has_what_is_new(grown, name):
    out, (manifest, then), _ = grown
    now, info, old = labels(out, name), read_manifest(out).prior(name), manifest.prior(name)
    assert {entity: groups for entity, groups in now.items() if entity in then[name]} == then[name]
    new = {entity: groups for entity, groups in now.items() if entity not in then[name]}
    whole = (
        PreparedData(out).user_texts().to_pylist()
        if info.kind == "user"
        else item_ids(out).values()
    )
    assert len(now) == len(list(whole))
    assert new
    assert all(groups == {REST[name]} for groups in new.values())
    assert info.groups[: len(old.groups)] == old.groups
    assert sum(info.sizes) == sum(old.sizes) + len(new)
    assert info.made_by["grown_from"] == [manifest.added_priors()[name]]


def test_it_is_said_with_the_command_that_computes_them_again(grown):
    out, _, made = grown
    command = "to compute it again: torchrec-priors prior"
    assert made.messages == [
        f"prior community: 10 new items are in 'others'; {command} graph --data {out} --name community --overwrite"
        " --last 50 --weights pmi --groups 3 --min-size 2",
        f"prior crowd: 3 new users are in 'other users'; {command} user --data {out} --name crowd --overwrite"
        " --weights pmi --neighbours 20 --min-size 1 --users-per-item 2000",
        f"prior job: 3 new users are in 'others'; {command} user --data {out} --name job --overwrite --by occupation"
        " --min-size 1",
        f"prior mood: 10 new items are in 'no mood'; {command} item --data {out} --name mood --overwrite"
        " --from moods.csv",
    ]


@pytest.mark.parametrize(
    ("made_by", "options"),
    [
        ({"weighted": True}, "--weights shared --no-join"),
        ({"weighted": False}, "--weights equal --no-join"),
        ({"weights": "cosine", "join": False}, "--weights cosine --no-join"),
        ({"weights": "pmi", "join": True}, "--weights pmi"),
    ],
)
def test_the_command_gives_the_same_for_priors_of_earlier_releases(made_by, options):
    """Earlier manifests have `weighted`, and their communities were not joined."""
    info = PriorInfo("c", "graph", ["others"], [3], made_by={"kind": "graph", **made_by})
    expected = f"torchrec-priors prior graph --data data --name c --overwrite {options}"
    assert remake(info, Path("data")) == expected
