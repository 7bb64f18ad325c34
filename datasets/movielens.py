"""MovieLens 100K (GroupLens; research use, no redistribution) in its official files.

Files: `u.data` (user, item, rating, time in seconds; tabs), `u.item` (id, title, dates, URL, 19 genre flags; bars,
Latin-1), `u.user` (id, age, gender, occupation, zip code; bars); `u.genre` and `u.occupation` are optional. Expected:
943 users, 1,682 films, 100,000 ratings from September 1997 to April 1998.

Priors: `genre` (several a film; the category prior), `rating` (the event: 1 to 5 stars), `age`, `gender`, `occupation`
(users). Source: https://grouplens.org/datasets/movielens/100k/; F. Maxwell Harper and Joseph A. Konstan, ACM TiiS
5(4):19, 2015.
"""

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.raw import LINE, BadRows, keep_valid, read_table, require_files

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
# GroupLens' own age bands, as in MovieLens 1M.
AGE_BANDS = (
    (0, "under 18"),
    (18, "18-24"),
    (25, "25-34"),
    (35, "35-44"),
    (45, "45-49"),
    (50, "50-55"),
    (56, "56+"),
)


def load(raw: Path, bad_rows: BadRows) -> Corpus:
    require_files(raw, ["u.data", "u.item", "u.user"])
    genres = _genre_names(raw)
    films = _films(raw, genres, bad_rows)
    users = _users(raw, bad_rows)
    ratings = _ratings(raw, films, users, bad_rows)
    return Corpus(
        name="movielens",
        interactions=ibis.memtable(ratings),
        items=ibis.memtable(films.select(["item_id", "title", "release_date", "url"])),
        category_prior="genre",
        default_horizon=8,
        events=STARS,
        event_prior="rating",
        item_priors=[Labels("genre", ibis.memtable(_genre_labels(films, genres)), remainder="no genre")],
        user_priors=[
            Labels(name, ibis.memtable(_labels(users, name)), remainder=f"no {name}")
            for name in ("age", "gender", "occupation")
        ],
        user_group="age",
    )


def _genre_names(raw: Path) -> tuple[str, ...]:
    file = raw / "u.genre"
    if not file.is_file():
        return GENRES
    table = read_table(file, "|", {"genre": pa.string(), "number": pa.int64()}, BadRows())
    names = tuple(table.sort_by("number")["genre"].to_pylist())
    if sorted(table["number"].to_pylist()) != list(range(len(GENRES))):
        raise UserError(f"{file} numbers {len(names)} genres where u.item has flags for {len(GENRES)}")
    return names


def _films(raw: Path, genres: tuple[str, ...], bad_rows: BadRows) -> pa.Table:
    file = raw / "u.item"
    texts = {name: pa.string() for name in ("title", "release_date", "video_release_date", "url")}
    flags = {f"flag:{genre}": pa.int8() for genre in genres}
    films = read_table(file, "|", {"item_id": pa.int64(), **texts, **flags}, bad_rows, encoding="latin-1")
    for flag in flags:
        valid = pc.is_in(films[flag], pa.array([0, 1], pa.int8()))
        films = keep_valid(films, valid, file, bad_rows, flag, "must be 0 or 1")
    return keep_valid(films, _first(films["item_id"]), file, bad_rows, "item_id", "must not repeat")


def _genre_labels(films: pa.Table, genres: tuple[str, ...]) -> pa.Table:
    parts = []
    for genre in genres:
        ids = films.filter(pc.equal(films[f"flag:{genre}"], 1))["item_id"]
        parts.append(pa.table({"item_id": ids, "label": pa.array([genre] * len(ids), pa.string())}))
    return pa.concat_tables(parts)


def _users(raw: Path, bad_rows: BadRows) -> pa.Table:
    file = raw / "u.user"
    columns = {"user_id": pa.int64(), "years": pa.int64(), "gender": pa.string(), "occupation": pa.string()}
    users = read_table(file, "|", {**columns, "zip_code": pa.string()}, bad_rows, encoding="latin-1")
    users = keep_valid(users, _first(users["user_id"]), file, bad_rows, "user_id", "must not repeat")
    users = keep_valid(users, pc.greater_equal(users["years"], 0), file, bad_rows, "years", "must not be negative")
    if (raw / "u.occupation").is_file():
        names = read_table(raw / "u.occupation", "|", {"occupation": pa.string()}, BadRows())["occupation"]
        known = pc.is_in(users["occupation"], names)
        users = keep_valid(users, known, file, bad_rows, "occupation", "must be listed in u.occupation")
    bands = [next(name for low, name in reversed(AGE_BANDS) if years >= low) for years in users["years"].to_pylist()]
    return users.append_column("age", pa.array(bands, pa.string()))


def _labels(users: pa.Table, column: str) -> pa.Table:
    return pa.table({"user_id": users["user_id"], "label": users[column]})


def _ratings(raw: Path, films: pa.Table, users: pa.Table, bad_rows: BadRows) -> pa.Table:
    file = raw / "u.data"
    columns = {"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.int8(), "seconds": pa.int64()}
    data = read_table(file, "\t", columns, bad_rows)
    stars = pa.array(range(1, 6), pa.int8())
    data = keep_valid(data, pc.is_in(data["rating"], stars), file, bad_rows, "rating", "must be 1 to 5")
    in_range = pc.less(pc.abs(data["seconds"]), 2**63 // 1000)
    data = keep_valid(data, in_range, file, bad_rows, "seconds", "must fit in milliseconds")
    listed = pc.is_in(data["item_id"], films["item_id"])
    data = keep_valid(data, listed, file, bad_rows, "item_id", "must be listed in u.item")
    listed = pc.is_in(data["user_id"], users["user_id"])
    data = keep_valid(data, listed, file, bad_rows, "user_id", "must be listed in u.user")
    return pa.table(
        {
            "user_id": data["user_id"],
            "item_id": data["item_id"],
            "timestamp": pc.multiply(data["seconds"], 1000),
            "order": data[LINE],
            "event": pc.subtract(data["rating"], 1).cast(pa.int8()),
        }
    )


def _first(ids: pa.ChunkedArray) -> pa.Array:
    """True where an id stands for the first time."""
    seen: set[int] = set()
    first = []
    for value in ids.to_pylist():
        first.append(value not in seen)
        seen.add(value)
    return pa.array(first, pa.bool_())
