"""What `prepare` prints lets a person see at once whether the times are right."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from small_movielens import Rating, read_ratings, read_sequences, write_ratings

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build import sequence_files
from torchrec_priors.preparation.build.split import AtTimes, LastOfUser
from torchrec_priors.preparation.build.summary import summary
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest

HORIZON = 8


@pytest.mark.slow
def test_the_range_of_times_is_in_days_of_all_kept_interactions(small_raw, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_files, "USERS_A_FILE", 32)
    manifest = prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "prepared")
    seconds = [
        rating.seconds
        for ratings in read_sequences(small_raw, HORIZON).values()
        for rating in ratings
    ]
    first, last = (datetime.fromtimestamp(end, UTC).date() for end in (min(seconds), max(seconds)))
    lines = summary(manifest, tmp_path / "prepared").splitlines()
    assert f"times: {first} to {last}" in lines


@pytest.mark.parametrize(
    ("factor", "says"), [(1e-3, "multiply them by 1000"), (1e3, "divide them")]
)
def test_times_in_a_wrong_unit_are_rejected(factor, says, small_raw, tmp_path):
    shutil.copytree(small_raw, tmp_path / "raw")
    ratings = [
        Rating(r.user, r.film, r.stars, int(r.seconds * factor)) for r in read_ratings(small_raw)
    ]
    write_ratings(tmp_path / "raw", ratings)
    with pytest.raises(UserError, match=says):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_an_order_is_not_shown_as_times(small_data):
    manifest = replace(read_manifest(small_data), has_times=False)
    assert "times: unknown, order only" in summary(manifest, small_data).splitlines()


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (LastOfUser(8), "each user's last 8 interactions are for test, the 8 before them for"),
        (LastOfUser(1), "each user's last interaction is for test, the one before it for"),
        (AtTimes(8, 0, 86_400_000), "; a user's first 8 interactions in each are targets"),
        (AtTimes(1, 0, 86_400_000), "; a user's first interaction in each is a target"),
    ],
)
def test_the_split_is_described_in_a_sentence(split, says):
    assert says in split.rule
