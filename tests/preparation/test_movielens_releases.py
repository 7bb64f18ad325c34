"""The same log in the files of every MovieLens release becomes the same data set."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_movielens import GENRES, read_ratings

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest

HORIZON = 8


@pytest.fixture
def films(small_raw):
    """(id, title, genres) of the small 100K files."""
    rows = [
        line.split("|")
        for line in (small_raw / "u.item").read_text(encoding="latin-1").splitlines()
    ]
    return [
        (row[0], row[1], [g for g, flag in zip(GENRES, row[5:], strict=True) if flag == "1"])
        for row in rows
    ]


def _1m(folder: Path, small_raw: Path, films) -> None:
    _write(
        folder / "ratings.dat",
        [f"{r.user}::{r.film}::{r.stars}::{r.seconds}" for r in read_ratings(small_raw)],
    )
    _write(
        folder / "movies.dat",
        ["::".join([film, title, "|".join(genres)]) for film, title, genres in films],
    )
    users = [
        line.split("|")
        for line in (small_raw / "u.user").read_text(encoding="latin-1").splitlines()
    ]
    _write(
        folder / "users.dat",
        [f"{u}::{gender}::{years}::{int(u) % 21}::{code}" for u, years, gender, _, code in users],
    )


def _10m(folder: Path, small_raw: Path, films) -> None:
    _write(
        folder / "ratings.dat",
        [f"{r.user}::{r.film}::{r.stars / 2:g}::{r.seconds}" for r in read_ratings(small_raw)],
    )
    lines = ["::".join([film, title, "|".join(genres)]) for film, title, genres in films]
    _write(folder / "movies.dat", lines, "utf8")


def _latest(folder: Path, small_raw: Path, films) -> None:
    rows = [f"{r.user},{r.film},{r.stars / 2},{r.seconds}" for r in read_ratings(small_raw)]
    _write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *rows])
    lines = [
        f'{film},"{title}, ""x""",{"|".join(genres) or "(no genres listed)"}'
        for film, title, genres in films
    ]
    _write(folder / "movies.csv", ["movieId,title,genres", *lines], "utf8")


def _kaggle(folder: Path, small_raw: Path, films) -> None:
    _latest(folder, small_raw, films)
    rows = (folder / "ratings.csv").read_text().splitlines()
    times = [row.rsplit(",", 1) for row in rows[1:]]
    moments = [
        f'{row},"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M:%S}"'
        for row, seconds in times
    ]
    _write(folder / "rating.csv", [rows[0], *moments])
    (folder / "ratings.csv").unlink()
    (folder / "movies.csv").rename(folder / "movie.csv")


def _write(file: Path, lines: list[str], encoding: str = "latin-1") -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)


@pytest.mark.parametrize(
    ("write", "stars", "users"), [(_1m, 5, 3), (_10m, 10, 0), (_latest, 10, 0), (_kaggle, 10, 0)]
)
def test_a_release_becomes_the_data_set_that_100k_becomes(
    write, stars, users, small_raw, small_data, films, tmp_path
):
    write(tmp_path / "raw", small_raw, films)
    prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "out")
    expected, got = PreparedData(small_data), PreparedData(tmp_path / "out")
    assert got.catalogue(["item", "item_id", "frequency"]) == expected.catalogue(
        ["item", "item_id", "frequency"]
    )
    assert (
        got.catalogue(["title"])["title"][0]
        .as_py()
        .startswith(expected.catalogue(["title"])["title"][0].as_py())
    )
    for ours, theirs in zip(got.row_groups, expected.row_groups, strict=True):
        assert got.read_users(ours).items.tolist() == expected.read_users(theirs).items.tolist()
        assert got.user_ids(ours) == expected.user_ids(theirs)
    genre, reference = got.manifest.prior("genre"), expected.manifest.prior("genre")
    assert (genre.groups, genre.sizes) == (reference.groups, reference.sizes)
    assert len(got.manifest.events) == stars
    assert sum(prior.kind == "user" for prior in got.manifest.priors) == users
    if write is _1m:
        assert got.manifest.prior("age").sizes == expected.manifest.prior("age").sizes


@pytest.mark.slow
def test_a_release_one_folder_deeper_in_another_encoding_or_without_users_is_read(
    small_raw, films, tmp_path
):
    _1m(tmp_path / "raw" / "ml-1m", small_raw, films)
    movies, users = (tmp_path / "raw" / "ml-1m" / name for name in ("movies.dat", "users.dat"))
    movies.write_text(
        movies.read_text(encoding="latin-1").replace("(19", "Café (19"), encoding="utf8"
    )
    made = prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "out")
    movies.write_text(movies.read_text(encoding="utf8"), encoding="latin-1")
    again = prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "again")
    assert again.content_sha256 == made.content_sha256
    assert any(
        "Café" in title for title in PreparedData(tmp_path / "out").catalogue()["title"].to_pylist()
    )
    users.unlink()
    without = prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "without")
    assert without.events == made.events
    assert [prior.name for prior in without.priors] == ["genre", "rating"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            [],
            "holds no release of MovieLens, which is u.data and u.item and u.user or ratings.dat and .*it is empty",
        ),
        (["ratings.csv.gz", "movies.csv.gz"], "it has movies.csv.gz, ratings.csv.gz: unpack them"),
        (["ml-1m.zip", "README"], "it has ml-1m.zip: unpack it"),
        (["u.data"], "lacks u.item, u.user .it has u.data"),
        (
            ["a/ratings.dat", "a/movies.dat", "b/ratings.dat", "b/movies.dat"],
            "several data sets .a, b.: give one of",
        ),
        ([f"{n}.txt" for n in range(9)], "it has 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 4 more"),
    ],
)
def test_what_is_no_release_is_named_by_what_it_holds(files, says, tmp_path):
    (tmp_path / "raw").mkdir()
    for name in files:
        _write(tmp_path / "raw" / name, ["x"])
    with pytest.raises(UserError, match=says):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "out")


def test_a_time_of_another_form_is_a_bad_row(small_raw, films, tmp_path):
    _kaggle(tmp_path / "raw", small_raw, films)
    with (tmp_path / "raw" / "rating.csv").open("a") as file:
        file.write("1,1,3.5,1112486027\n")
    with pytest.raises(
        UserError, match=r"rating\.csv, line \d+: timestamp must be a time as %Y.*'1112486027'"
    ):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("ratings.csv", "1,2,0.7,5", "line 3: rating must be 0.5 to 5 in steps of 0.5: '0.7'"),
        ("ratings.csv", "1,2,5", "line 3: 3 fields where 4 are expected"),
        ("ratings.csv", "1,2,x,5", "line 3: rating is not a number: 'x'"),
        ("ratings.csv", "1,,1.0,5", "line 3: movieId is not an integer: ''"),
        ("ratings.csv", "1,999,1.0,5", "line 3: item_id must be listed in movies.csv: '999'"),
        ("movies.csv", "1,again,Drama", "item_id must not repeat: '1'"),
    ],
)
def test_a_bad_row_of_a_csv_release_is_named(file, line, says, small_raw, films, tmp_path):
    _latest(tmp_path / "raw", small_raw, films)
    lines = (tmp_path / "raw" / file).read_text(encoding="utf8").splitlines()
    place = 1 if file == "ratings.csv" else len(lines)
    lines[place:place] = (
        ["", line] if file == "ratings.csv" else [line]
    )  # a blank line counts as a line
    _write(tmp_path / "raw" / file, lines, "utf8")
    with pytest.raises(UserError, match=re.escape(says)):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "out")
    prepare(Settings("movielens", tmp_path / "raw", HORIZON, on_bad_row="drop"), tmp_path / "out")
    assert (
        sum(
            n
            for reason, n in read_manifest(tmp_path / "out").counts["dropped"].items()
            if reason.startswith(file)
        )
        == 1
    )


def test_a_missing_column_is_named(small_raw, films, tmp_path):
    _latest(tmp_path / "raw", small_raw, films)
    file = tmp_path / "raw" / "movies.csv"
    file.write_text(file.read_text().replace("genres", "kinds", 1))
    with pytest.raises(UserError, match=r"movies\.csv has no column genres"):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "out")
