"""A log split at points in time: what is trained on, validated and tested is what a slow reading of the files gives."""

import collections
import itertools
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_movielens import Rating, read_ratings, read_sequences, write_ratings
from stores import fill, fresh

from torchrec_priors.data.histories import history_batches
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.communities.prior import communities
from torchrec_priors.preparation.priors.communities.settings import GraphPrior
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest

HORIZON, DAY = 3, 86_400
START = 880_000_000 // DAY * DAY
IN_TIME = SplitBy("time", "1998-01-01", "1998-02-01")
FROM = [
    int(np.datetime64(day, "s").astype(int)) for day in (IN_TIME.validation_from, IN_TIME.test_from)
]


@pytest.fixture(scope="module")
def raw(small_raw, tmp_path_factory):
    """Ratings over five months, each user's within some weeks of them: some are there in one part alone."""
    folder = tmp_path_factory.mktemp("months") / "raw"
    shutil.copytree(small_raw, folder)
    random = np.random.default_rng(0)
    first = collections.defaultdict(lambda: START + int(random.integers(0, 130)) * DAY)
    ratings = [
        Rating(
            each.user, each.film, each.stars, first[each.user] + int(random.integers(0, 30 * DAY))
        )
        for each in read_ratings(folder)
    ]
    alone = Rating(999, 1, 5, START)  # a user of one interaction
    write_ratings(folder, [*ratings, alone])
    with (folder / "u.user").open("a") as people:
        people.write("999|30|M|artist|12345\n")
    return folder


@pytest.fixture(scope="module")
def folder(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("in_time") / "prepared"
    prepare(Settings("movielens", raw, HORIZON, split=IN_TIME), out)
    return out


def _parts(raw) -> dict[int, list[list[Rating]]]:
    """User -> training, validation and test part."""
    return {
        user: [
            [each for each in ratings if each.seconds < FROM[0]],
            [each for each in ratings if FROM[0] <= each.seconds < FROM[1]],
            [each for each in ratings if FROM[1] <= each.seconds],
        ]
        for user, ratings in read_sequences(raw, 0).items()
    }


def _kept(parts) -> bool:
    training, validation, test = map(len, parts)
    return training >= 2 or bool(training and validation) or bool(training + validation and test)


def test_the_parts_are_the_same_in_a_store(folder, monkeypatch, tmp_path):
    """Where the parts end is asked for before any file of the store has been opened."""
    fresh(monkeypatch, tmp_path / "cache")
    fill(folder, "pretended://bucket/shop")
    here = PreparedData(folder)
    for ends in ("training_ends", "validation_ends"):
        there = PreparedData("pretended://bucket/shop")
        assert np.array_equal(getattr(there, ends), getattr(here, ends))


def test_counts_and_frequencies_are_those_of_the_parts(raw, folder):
    manifest, parts = read_manifest(folder), _parts(raw)
    kept = {user: each for user, each in parts.items() if _kept(each)}
    assert len(kept) < len(parts), "nobody is left out"
    counts = manifest.counts
    assert counts["users"] == len(kept)
    assert counts["dropped"]["users with nothing to train or evaluate on"] == len(parts) - len(kept)
    assert counts["training_interactions"] == sum(len(each[0]) for each in kept.values())
    assert (
        counts["validation_users"] == sum(bool(each[0] and each[1]) for each in kept.values()) > 5
    )
    assert (
        counts["test_users"]
        == sum(bool(each[0] + each[1] and each[2]) for each in kept.values())
        > 5
    )
    assert (
        counts["untested_interactions"]
        == sum(max(0, len(each[2]) - HORIZON) for each in kept.values())
        > 5
    )
    assert (
        manifest.split
        == "validation from 1998-01-01T00:00, test from 1998-02-01T00:00;"
        + " a user's first 3 interactions in each are targets"
    )
    items = pq.read_table(folder / "items.parquet").to_pydict()
    trained = collections.Counter(rating.film for each in kept.values() for rating in each[0])
    assert dict(zip(items["item_id"], items["frequency"], strict=True)) == {
        film: trained[film] for film in items["item_id"]
    }


@pytest.mark.parametrize("split", ["validation", "test"])
def test_targets_are_the_first_of_the_part_and_histories_all_before(raw, folder, split):
    data, expected = PreparedData(folder), {}
    films = data.catalogue(["item_id"])["item_id"].to_pylist()
    for user, (training, validation, test) in _parts(raw).items():
        seen, part = (
            (training, validation) if split == "validation" else (training + validation, test)
        )
        if seen and part:
            expected[user] = ([each.film for each in seen], [each.film for each in part[:HORIZON]])
    found = {}
    for users in history_batches(data, split, context=5, batch=7):
        seen, targets = iter(users.seen.tolist()), iter(users.targets.tolist())
        for user, before, ahead in zip(
            users.user_ids.to_pylist(), users.seen_lengths, users.target_lengths, strict=True
        ):
            films_seen = [films[row] for row in itertools.islice(seen, before)]
            found[user] = (films_seen, [films[row] for row in itertools.islice(targets, ahead)])
    assert found == expected
    assert any(len(targets) < HORIZON for _, targets in found.values()), (
        "all have as many targets as the horizon"
    )


def test_windows_hold_the_training_part_alone_and_all_of_it(raw, folder):
    data = PreparedData(folder)
    films = data.catalogue(["item_id"])["item_id"].to_pylist()
    stream = WindowStream(data, context=1_000, horizon=2, batch=8, seed=0)
    found = collections.Counter()
    for windows in itertools.islice(stream, stream.steps_an_epoch):
        found.update(films[row] for row in windows.items.tolist())
    trained = [each[0] for each in _parts(raw).values() if len(each[0]) > 1]
    assert found == collections.Counter(rating.film for ratings in trained for rating in ratings)


@pytest.mark.slow
def test_what_lies_after_the_training_part_changes_no_prior_and_no_frequency(raw, folder, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    films = sorted({rating.film for rating in read_ratings(raw)})
    ratings = [
        Rating(each.user, films[-1 - films.index(each.film)], 6 - each.stars, each.seconds)
        if each.seconds >= FROM[0]
        else each
        for each in read_ratings(raw)
    ]
    write_ratings(tmp_path / "raw", ratings)
    prepare(Settings("movielens", tmp_path / "raw", HORIZON, split=IN_TIME), tmp_path / "changed")
    graph = GraphPrior("community", last=9, groups=4)
    for each in (shutil.copytree(folder, tmp_path / "same"), tmp_path / "changed"):
        add_prior(each, "community", communities(graph, PreparedData(each)), read_manifest(each))
    one, two = (
        {info.path: info.sha256 for info in read_manifest(tmp_path / name).files}
        for name in ("same", "changed")
    )
    changed = {path for path in one | two if one.get(path) != two.get(path)}
    assert changed
    assert all(path.startswith(("sequences/", "held/")) for path in changed), changed


@pytest.mark.slow
def test_without_times_given_a_fifth_of_the_log_is_held_out(raw, tmp_path):
    manifest = prepare(Settings("movielens", raw, HORIZON, split=SplitBy("time")), tmp_path / "out")
    counts = manifest.counts
    assert 0.75 < counts["training_interactions"] / counts["interactions"] < 0.85


@pytest.mark.slow
def test_the_same_settings_are_known_again_and_others_are_not(raw, tmp_path):
    settings = Settings("movielens", raw, HORIZON, split=IN_TIME)
    said = []
    prepare(settings, tmp_path / "out")
    prepare(settings, tmp_path / "out", report=said.append)
    assert said == [f"{tmp_path / 'out'} already holds this data set"]
    with pytest.raises(UserError, match="other settings"):
        prepare(Settings("movielens", raw, HORIZON), tmp_path / "out")


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (
            ("time", "1990-01-01", "1998-02-01"),
            "leave a part empty, as the log goes from 1997-11-20",
        ),
        (("time", "1998-02-01", "1998-01-01"), "leave a part empty"),
        (
            ("time", "1998-02-01", "2001-01-01"),
            r"validation from 1998-02-01.* and test from 2001-01-01.* leave a part empty, as the "
            r"log goes from 1997-11-20.* to 1998-04-27T10:59",
        ),
        (("time", "yesterday", None), "--validation-from: 'yesterday' is not a date or time"),
        (("user", None, "1998-01-01"), "--test-from needs --split time"),
    ],
)
def test_mistakes(raw, tmp_path, split, words):
    with pytest.raises(UserError, match=words):
        prepare(Settings("movielens", raw, HORIZON, split=SplitBy(*split)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
