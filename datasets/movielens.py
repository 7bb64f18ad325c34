"""MovieLens (GroupLens; research use, no redistribution) in its official files.

The release is recognised by the names of the files, which are in the raw folder or in the only
folder inside it. Texts are read as UTF-8, or as Latin-1 if they are not valid UTF-8.

100K has three files. `u.data` is separated by tabs (user, item, rating, time in seconds). `u.item`
is separated by vertical bars and encoded in Latin-1 (id, title, dates, URL, 19 genre flags).
`u.user` is separated by vertical bars (id, age, gender, occupation, zip code). `u.genre` and
`u.occupation` are optional. Expected: 943 users, 1,682 films, 100,000 ratings from September 1997
to April 1998.

1M has `ratings.dat`, `movies.dat` and `users.dat`, with fields separated by `::`, in Latin-1.
Genres are separated by vertical bars, and ages and occupations are codes. Expected: 6,040 users,
3,883 films, 1,000,209 ratings.

10M has the same form without `users.dat`, and half stars. If `users.dat` of 1M is missing, 1M is
still distinguished from 10M because it has only whole stars.

20M, 25M, 32M and "latest" have `ratings.csv` and `movies.csv` with headers, and half stars.

Kaggle's 20M has `rating.csv` and `movie.csv` of the same form, except that times are written like
"2005-04-02 23:53:47".

Priors: `genre` (several for a film; the category prior), `rating` (the event type, a number of
stars), and, if the files describe the users, `age`, `gender` and `occupation`.
Source: https://grouplens.org/datasets/movielens/; F. Maxwell Harper and Joseph A. Konstan, ACM TiiS
5(4):19, 2015.
"""

from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.raw import (
    LINE,
    BadRows,
    encoding_of,
    folder_with,
    found_in,
    keep_valid,
    read_csv,
    read_table,
    require_files,
)

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
HALF_STARS = ("0.5 stars", "1 star", *(f"{half / 2:g} stars" for half in range(3, 11)))
# The age bands that GroupLens uses in 1M. The lower bound is the code of the band.
AGE_BANDS = (
    (0, "under 18"),
    (18, "18-24"),
    (25, "25-34"),
    (35, "35-44"),
    (45, "45-49"),
    (50, "50-55"),
    (56, "56+"),
)
# The occupation with code c in 1M is OCCUPATIONS_1M[c].
OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student",
    "customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker",
    "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist",
    "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip

# The files of each form of the data. A release is recognised by them.
_100K = ("u.data", "u.item", "u.user")
_DAT = ("ratings.dat", "movies.dat")
_CSV = ("ratings.csv", "movies.csv")
_KAGGLE = ("rating.csv", "movie.csv")


@dataclass(frozen=True)
class _Release:
    """The tables of a release. They have the same columns for all releases.

    Attributes:
        films: a table of `item_id`, `title`, and any other attributes.
        genres: a table of `item_id`, `label`.
        ratings: a table of `user_id`, `item_id`, `rating` (float64), `seconds`, `line`.
        files: the files of ratings, films and, if there are any, users.
        stars: the names of the possible ratings, which are evenly spaced up to 5.
        users: a table of `user_id`, `age`, `gender`, `occupation`; None if the files do not
            describe users.
    """

    films: pa.Table
    genres: pa.Table
    ratings: pa.Table
    files: tuple[Path, ...]
    stars: tuple[str, ...]
    users: pa.Table | None = None


def load(raw: Path, bad_rows: BadRows) -> Corpus:
    release = _release(raw, bad_rows)

    user_priors = []
    if release.users is not None:
        for name in ("age", "gender", "occupation"):
            labels = ibis.memtable(_labels(release.users, name))
            user_priors.append(Labels(name, labels, f"no {name}"))

    return Corpus(
        name="movielens",
        interactions=ibis.memtable(_interactions(release, bad_rows)),
        items=ibis.memtable(release.films),
        category_prior="genre",
        default_horizon=8,
        events=release.stars,
        event_prior="rating",
        item_priors=[Labels("genre", ibis.memtable(release.genres), remainder="no genre")],
        user_priors=user_priors,
        user_group="age" if user_priors else None,
    )


def _release(raw: Path, bad_rows: BadRows) -> _Release:
    """Reads the release, which is recognised by its files."""
    raw = folder_with(raw, _100K, _DAT, _CSV, _KAGGLE)
    for names in (_CSV, _KAGGLE):
        if (raw / names[0]).is_file():
            return _latest(raw, names, bad_rows)
    if (raw / "ratings.dat").is_file():
        return _1m_or_10m(raw, bad_rows)

    if raw.is_dir() and not any((raw / name).is_file() for name in _100K):
        forms = " or ".join(" and ".join(names) for names in (_100K, _DAT, _CSV, _KAGGLE))
        raise UserError(
            f"--raw: '{raw}' holds no release of MovieLens, which is {forms} ({found_in(raw)})"
        )
    return _100k(raw, bad_rows)


def _100k(raw: Path, bad_rows: BadRows) -> _Release:
    require_files(raw, _100K)
    genres = _genre_names(raw)
    films = _films_100k(raw, genres, bad_rows)

    columns = {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "rating": pa.float64(),
        "seconds": pa.int64(),
    }
    return _Release(
        films=films.select(["item_id", "title", "release_date", "url"]),
        genres=_genres_from_flags(films, genres),
        ratings=read_table(raw / "u.data", "\t", columns, bad_rows),
        files=(raw / "u.data", raw / "u.item", raw / "u.user"),
        stars=STARS,
        users=_users_100k(raw, bad_rows),
    )


def _1m_or_10m(raw: Path, bad_rows: BadRows) -> _Release:
    has_users = (raw / "users.dat").is_file()
    require_files(raw, _DAT)

    file = raw / "movies.dat"
    columns = {"item_id": pa.int64(), "title": pa.string(), "genres": pa.string()}
    films = read_table(file, "::", columns, bad_rows, encoding=encoding_of(file))
    films = _without_repeated_ids(films, file, "item_id", bad_rows)

    rated = {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "rating": pa.float64(),
        "seconds": pa.int64(),
    }
    ratings = read_table(raw / "ratings.dat", "::", rated, bad_rows)

    # Only 1M describes users. Without `users.dat`, only 10M has half stars.
    is_1m = has_users or _all_whole(ratings["rating"])
    return _Release(
        films=films.select(["item_id", "title"]),
        genres=_genres_from_lists(films),
        ratings=ratings,
        files=(raw / "ratings.dat", raw / "movies.dat", raw / "users.dat"),
        stars=STARS if is_1m else HALF_STARS,
        users=_users_1m(raw / "users.dat", bad_rows) if has_users else None,
    )


def _all_whole(ratings: pa.ChunkedArray) -> bool:
    """Returns whether there are no half stars."""
    whole: bool = pc.all(pc.equal(ratings, pc.trunc(ratings)), min_count=0).as_py()
    return whole


def _latest(raw: Path, names: tuple[str, str], bad_rows: BadRows) -> _Release:
    require_files(raw, names)
    ratings_file, films_file = (raw / name for name in names)

    columns = {"movieId": pa.int64(), "title": pa.string(), "genres": pa.string()}
    films = read_csv(films_file, columns, bad_rows)
    films = films.rename_columns(["item_id", "title", "genres", LINE])
    films = _without_repeated_ids(films, films_file, "item_id", bad_rows)

    # The times in Kaggle's file are texts, which are converted below.
    seconds = pa.string() if names == _KAGGLE else pa.int64()
    rated = {
        "userId": pa.int64(),
        "movieId": pa.int64(),
        "rating": pa.float64(),
        "timestamp": seconds,
    }
    ratings = read_csv(ratings_file, rated, bad_rows)
    if names == _KAGGLE:
        ratings = _in_seconds(ratings, ratings_file, bad_rows)

    return _Release(
        films=films.select(["item_id", "title"]),
        genres=_genres_from_lists(films),
        ratings=ratings.rename_columns(["user_id", "item_id", "rating", "seconds", LINE]),
        files=(ratings_file, films_file),
        stars=HALF_STARS,
    )


def _in_seconds(ratings: pa.Table, file: Path, bad_rows: BadRows) -> pa.Table:
    """Converts times such as "2005-04-02 23:53:47" to seconds since 1970."""
    form = "%Y-%m-%d %H:%M:%S"
    # Texts that are not times become null, and `keep_valid` then handles them as bad rows.
    times = pc.strptime(ratings["timestamp"], form, "s", error_is_null=True)
    ratings = keep_valid(
        ratings, pc.is_valid(times), file, bad_rows, "timestamp", f"must be a time as {form}"
    )
    index = ratings.schema.get_field_index("timestamp")
    return ratings.set_column(index, "timestamp", times.drop_null().cast(pa.int64()))


def _genre_names(raw: Path) -> tuple[str, ...]:
    """Returns the names of the flags in `u.item`, in order."""
    file = raw / "u.genre"
    if not file.is_file():
        return GENRES

    # The file is small and comes from the publisher, so a bad row is always rejected, even with
    # `--on-bad-row drop`.
    table = read_table(file, "|", {"genre": pa.string(), "number": pa.int64()}, BadRows())
    names = tuple(table.sort_by("number")["genre"].to_pylist())
    if sorted(table["number"].to_pylist()) != list(range(len(GENRES))):
        raise UserError(
            f"{file} numbers {len(names)} genres where u.item has flags for {len(GENRES)}"
        )
    return names


def _films_100k(raw: Path, genres: tuple[str, ...], bad_rows: BadRows) -> pa.Table:
    file = raw / "u.item"
    texts = {name: pa.string() for name in ("title", "release_date", "video_release_date", "url")}
    flags = {f"flag:{genre}": pa.int8() for genre in genres}
    films = read_table(
        file, "|", {"item_id": pa.int64(), **texts, **flags}, bad_rows, encoding=encoding_of(file)
    )

    for flag in flags:
        valid = pc.is_in(films[flag], pa.array([0, 1], pa.int8()))
        films = keep_valid(films, valid, file, bad_rows, flag, "must be 0 or 1")

    return _without_repeated_ids(films, file, "item_id", bad_rows)


def _genres_from_flags(films: pa.Table, genres: tuple[str, ...]) -> pa.Table:
    """Returns a table of (item_id, label) from the flags of genres."""
    parts = []
    for genre in genres:
        ids = films.filter(pc.equal(films[f"flag:{genre}"], 1))["item_id"]
        parts.append(pa.table({"item_id": ids, "label": pa.array([genre] * len(ids), pa.string())}))
    return pa.concat_tables(parts)


def _genres_from_lists(films: pa.Table) -> pa.Table:
    """Returns a table of (item_id, label) from texts such as "Comedy|Drama".

    The text "(no genres listed)" gives no label.
    """
    # A text that lists several genres becomes several rows.
    lists = pc.split_pattern(films["genres"].combine_chunks(), "|")
    items = films["item_id"].combine_chunks().take(pc.list_parent_indices(lists))
    pairs = pa.table({"item_id": items, "label": pc.list_flatten(lists)})

    nothing = pc.is_in(pairs["label"], pa.array(["", "(no genres listed)"]))
    return pairs.filter(pc.invert(nothing))


def _users_100k(raw: Path, bad_rows: BadRows) -> pa.Table:
    file = raw / "u.user"
    columns = {
        "user_id": pa.int64(),
        "years": pa.int64(),
        "gender": pa.string(),
        "occupation": pa.string(),
    }
    users = _users(file, "|", columns, bad_rows)

    # The file with the list of occupations is optional.
    list_of_occupations = raw / "u.occupation"
    if list_of_occupations.is_file():
        names = read_table(list_of_occupations, "|", {"occupation": pa.string()}, BadRows())
        known = pc.is_in(users["occupation"], names["occupation"])
        users = keep_valid(
            users, known, file, bad_rows, "occupation", "must be listed in u.occupation"
        )
    return _with_age(users)


def _users_1m(file: Path, bad_rows: BadRows) -> pa.Table:
    columns = {
        "user_id": pa.int64(),
        "gender": pa.string(),
        "years": pa.int64(),
        "code": pa.int64(),
    }
    users = _users(file, "::", columns, bad_rows)

    known = pc.is_in(users["code"], pa.array(range(len(OCCUPATIONS_1M)), pa.int64()))
    users = keep_valid(
        users, known, file, bad_rows, "code", f"must be 0 to {len(OCCUPATIONS_1M) - 1}"
    )
    names = pa.array(OCCUPATIONS_1M, pa.string()).take(users["code"].combine_chunks())
    return _with_age(users.append_column("occupation", names))


def _users(
    file: Path, delimiter: str, columns: dict[str, pa.DataType], bad_rows: BadRows
) -> pa.Table:
    """Reads the users of a file. Repeated users and invalid ages in `years` are bad rows."""
    users = read_table(
        file, delimiter, {**columns, "zip_code": pa.string()}, bad_rows, encoding=encoding_of(file)
    )
    users = _without_repeated_ids(users, file, "user_id", bad_rows)
    return keep_valid(
        users, pc.greater_equal(users["years"], 0), file, bad_rows, "years", "must not be negative"
    )


def _with_age(users: pa.Table) -> pa.Table:
    """Returns the users with a column `age`, the name of the age band."""
    bands = [_age_band(years) for years in users["years"].to_pylist()]
    return users.append_column("age", pa.array(bands, pa.string()))


def _age_band(years: int) -> str:
    return next(name for low, name in reversed(AGE_BANDS) if years >= low)


def _labels(users: pa.Table, column: str) -> pa.Table:
    return pa.table({"user_id": users["user_id"], "label": users[column]})


def _interactions(release: _Release, bad_rows: BadRows) -> pa.Table:
    """Returns the valid ratings as interactions, with the stars as events."""
    ratings = release.ratings
    file = release.files[0]

    # The code of a rating is its index in `stars`. Ratings between two steps have no code.
    step = 5 / len(release.stars)
    code = pc.subtract(pc.divide(ratings["rating"], step), 1.0)
    ratings = ratings.append_column("code", code)
    has_code = pc.is_in(code, pa.array(range(len(release.stars)), pa.float64()))
    ratings = keep_valid(
        ratings, has_code, file, bad_rows, "rating", f"must be {step:g} to 5 in steps of {step:g}"
    )

    # Times are stored in milliseconds as int64, so larger values would overflow.
    in_range = pc.less(pc.abs(ratings["seconds"]), 2**63 // 1000)
    ratings = keep_valid(ratings, in_range, file, bad_rows, "seconds", "must fit in milliseconds")

    listed = pc.is_in(ratings["item_id"], release.films["item_id"])
    ratings = keep_valid(
        ratings, listed, file, bad_rows, "item_id", f"must be listed in {release.files[1].name}"
    )
    if release.users is not None:
        listed = pc.is_in(ratings["user_id"], release.users["user_id"])
        ratings = keep_valid(
            ratings, listed, file, bad_rows, "user_id", f"must be listed in {release.files[2].name}"
        )

    return pa.table(
        {
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "timestamp": pc.multiply(ratings["seconds"], 1000),
            "order": ratings[LINE],
            "event": ratings["code"].cast(pa.int8()),
        }
    )


def _without_repeated_ids(table: pa.Table, file: Path, column: str, bad_rows: BadRows) -> pa.Table:
    """Returns the first row of each id. Later rows with the same id are bad rows."""
    seen: set[int] = set()
    first = []
    for value in table[column].to_pylist():
        first.append(value not in seen)
        seen.add(value)

    return keep_valid(table, pa.array(first, pa.bool_()), file, bad_rows, column, "must not repeat")
