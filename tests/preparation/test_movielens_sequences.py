"""MovieLens 1M in the text form of published comparisons: made-up files, and the real ones."""

import json
import shutil
from pathlib import Path

import pytest
from prepared_log import item_ids, items, labels, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ml-1m"
LINES = ["7 1 2 3 2", "3 3 2 1", "", "9 4 1", "5 2 4 3 1 4"]
LABELS = {"1": [8], "2": [8, 9], "3": [9, 5], "4": [], "6": [5]}
NAMES = {"War": 8, "Western": 9, "Crime": 5, "Horror": 1}
TITLES = {1: "One", 2: "Zwölf", 3: "Three: The End", 4: "Four", 5: "Nobody's", 6: "Unseen"}
USERS = {7: ("F", 1, 10), 3: ("M", 25, 0), 9: ("M", 56, 20), 5: ("F", 25, 12)}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "ML-1M.txt").write_text("\n".join(LINES))
    (folder / "ML-1M_item2attributes.json").write_text(json.dumps(LABELS))
    (folder / "genres.json").write_text(json.dumps(NAMES))
    films = [f"{film}::{title} (1999)::Drama" for film, title in TITLES.items()]
    (folder / "movies.dat").write_text("\n".join(films), encoding="latin-1")
    people = [f"{user}::{'::'.join(map(str, about))}::99" for user, about in USERS.items()]
    (folder / "users.dat").write_text("\n".join(people))
    return folder


def _prepare(raw, **settings):
    return prepare(Settings("movielens", raw, **settings), raw.parent / "data", overwrite=True)


def _items_of(folder):
    return {user: [item for item, _, _ in own] for user, own in sequences(folder).items()}


def test_lines_become_histories_with_titles_genres_and_users(raw, tmp_path):
    made = _prepare(raw)
    data = tmp_path / "data"
    assert _items_of(data) == {7: [1, 2, 3, 2], 3: [3, 2, 1], 5: [2, 4, 3, 1, 4]}
    assert made.name == "movielens"
    assert not made.has_times
    assert not made.events
    assert made.horizon == 1
    assert {film: row["title"] for film, row in items(data).items()} == {
        film: f"{TITLES[film]} (1999)" for film in (1, 2, 3, 4)
    }
    assert labels(data, "genre") == {
        1: {"War"},
        2: {"War", "Western"},
        3: {"Western", "Crime"},
        4: {"no genre"},
    }
    assert labels(data, "age") == {7: {"under 18"}, 3: {"25-34"}, 5: {"25-34"}}
    assert labels(data, "gender") == {7: {"F"}, 3: {"M"}, 5: {"F"}}
    assert labels(data, "occupation") == {7: {"K-12 student"}, 3: {"other"}, 5: {"programmer"}}
    assert [prior.name for prior in made.priors] == ["genre", "age", "gender", "occupation"]


def test_films_that_nobody_rated_are_left_out_and_counted(raw):
    dropped = _prepare(raw).counts["dropped"]
    assert dropped["movies.dat: films without a rating in ML-1M.txt"] == 2
    assert dropped["ML-1M_item2attributes.json: films without a rating in ML-1M.txt"] == 1
    assert dropped["users of at most twice the horizon"] == 1


def test_users_need_no_file_and_the_folder_may_be_one_deeper(raw, tmp_path):
    _prepare(raw)
    histories = sequences(tmp_path / "data")
    (raw / "users.dat").unlink()
    raw.rename(tmp_path / "ml-1m")
    raw.mkdir()
    (tmp_path / "ml-1m").rename(raw / "ml-1m")
    made = _prepare(raw)
    assert sequences(tmp_path / "data") == histories
    assert [prior.name for prior in made.priors] == ["genre"]


def test_a_horizon_that_is_given_is_used(raw):
    made = _prepare(raw, horizon=2)
    assert made.horizon == 2
    assert made.counts["users"] == 1


@pytest.mark.parametrize(
    ("film", "user", "says", "account"),
    [
        (8, 5, "item_id must be listed in movies.dat: '8'", "item_id must be listed in movies.dat"),
        (1, 6, "user_id must be listed in users.dat: '6'", "user_id must be listed in users.dat"),
    ],
)
def test_a_film_without_title_or_an_unknown_user_is_refused_or_dropped_and_counted(
    film, user, says, account, raw, tmp_path
):
    (raw / "ML-1M.txt").write_text("\n".join([*LINES[:4], f"{user} 2 4 3 {film} 1"]))
    with pytest.raises(UserError, match=rf"ML-1M\.txt, line 5: {says} \(--on-bad-row drop"):
        _prepare(raw)
    made = _prepare(raw, on_bad_row="drop")
    kept = {7: [1, 2, 3, 2], 3: [3, 2, 1]}
    if user == 5:
        kept[5] = [2, 4, 3, 1]
    assert _items_of(tmp_path / "data") == kept
    assert made.counts["dropped"][f"ML-1M.txt: {account}"] == (1 if user == 5 else 5)


@pytest.mark.parametrize(
    "file", ["ML-1M.txt", "ML-1M_item2attributes.json", "genres.json", "movies.dat"]
)
def test_a_missing_file_is_named(file, raw):
    (raw / file).unlink()
    # Without the sequences, nothing tells that the other files belong together.
    says = "holds no release" if file == "ML-1M.txt" else rf"lacks {file} \(it has "
    with pytest.raises(UserError, match=says):
        _prepare(raw)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("genres.json", "[1]", r"genres\.json is not name -> label id in JSON"),
        ("genres.json", "{", r"genres\.json is not name -> label id in JSON"),
        ("genres.json", '{"War": 1.5}', "in JSON: 1.5 is not an integer"),
        (
            "genres.json",
            '{"War": 8, "Crime": 8}',
            r"gives label 8 two names, 'War' and 'Crime': keep one",
        ),
        (
            "genres.json",
            '{"War": 8, "Western": 9}',
            r"genres\.json has no name for label 5, which ML-1M_item2attributes\.json gives to film 3",
        ),
        ("ML-1M_item2attributes.json", '{"1": 3}', "is not item -> list of label ids in JSON"),
        ("ML-1M.txt", "7 1 2 3\n7 1", r"ML-1M\.txt: user 7 has two lines"),
        ("ML-1M.txt", "7 1 x", "line 1: not two or more integers: '7 1 x'"),
        ("movies.dat", "1::One", r"movies\.dat, line 1: 2 fields where 3 are expected"),
    ],
)
def test_a_broken_file_is_named(file, content, says, raw):
    (raw / file).write_text(content)
    with pytest.raises(UserError, match=says):
        _prepare(raw)


@pytest.mark.parametrize("file", ["u.data", "ratings.dat", "ratings.csv", "rating.csv"])
def test_two_forms_in_one_folder_are_refused(file, raw):
    (raw / file).write_text("7::1::5::978300760\n")
    with pytest.raises(
        UserError, match=rf"in two forms, ML-1M\.txt and {file}: keep them in two folders"
    ):
        _prepare(raw)


@pytest.mark.slow
def test_new_lines_are_appended_after_the_existing_ones(raw, tmp_path):
    _prepare(raw)
    more = tmp_path / "more"
    shutil.copytree(raw, more)
    (more / "ML-1M.txt").write_text("3 4 6\n9 2")
    append(more, tmp_path / "data", Given())
    assert _items_of(tmp_path / "data") == {
        7: [1, 2, 3, 2],
        3: [3, 2, 1, 4, 6],
        5: [2, 4, 3, 1, 4],
        9: [4, 1, 2],
    }
    assert items(tmp_path / "data")[6]["title"] == "Unseen (1999)"


@pytest.mark.slow
def test_the_real_files_have_the_published_size_and_the_sequences_of_amazons_reader(tmp_path):
    if not (REAL / "ML-1M.txt").is_file():
        pytest.skip(f"the sequences of MovieLens 1M are not at {REAL}")
    data = tmp_path / "data"
    made = prepare(Settings("movielens", REAL), data)
    assert [made.counts[name] for name in ("users", "items", "interactions")] == [
        6_040,
        3_416,
        999_611,
    ]
    assert {reason: number for reason, number in made.counts["dropped"].items() if number} == {
        "movies.dat: films without a rating in ML-1M.txt": 467
    }

    # The files' own lines, and what another reader makes of them.
    lines = (line.split() for line in (REAL / "ML-1M.txt").read_text().splitlines())
    histories = {int(user): [int(film) for film in films] for user, *films in lines}
    assert _items_of(data) == histories
    prepare(Settings("amazon", REAL), tmp_path / "amazon")
    assert sequences(tmp_path / "amazon") == sequences(data)
    assert item_ids(tmp_path / "amazon") == item_ids(data)

    titles = {film: row["title"] for film, row in items(data).items()}
    assert titles[1] == "Toy Story (1995)"
    assert titles[260] == "Star Wars: Episode IV - A New Hope (1977)"
    assert titles[73] == "Misérables, Les (1995)"

    # The labels say the same as the genres in the official list of films.
    official = {}
    for line in (REAL / "movies.dat").read_text(encoding="latin-1").splitlines():
        film, _, genres = line.split("::")
        official[int(film)] = set(genres.split("|"))
    assert labels(data, "genre") == {film: official[film] for film in titles}
    groups = read_manifest(data).prior("genre")
    assert len(groups.groups) == 19  # 18 genres and the empty remainder
    assert groups.sizes[groups.groups.index("no genre")] == 0

    gender = read_manifest(data).prior("gender")
    assert dict(zip(gender.groups, gender.sizes, strict=True)) == {
        "M": 4_331,
        "F": 1_709,
        "no gender": 0,
    }
    assert labels(data, "age")[1] == {"under 18"}
    assert labels(data, "occupation")[1] == {"K-12 student"}
