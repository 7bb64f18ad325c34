"""Reads 1M and 10M, whose files end in `.dat` and have fields separated by `::`."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.preparation.raw import (
    BadRows,
    encoding_of,
    keep_first,
    read_table,
    require_files,
)
from torchrec_priors.preparation.raw.movielens import genres, ratings
from torchrec_priors.preparation.raw.movielens.release import HALF_STARS, STARS, Release
from torchrec_priors.preparation.raw.movielens.users import users_1m

FILES = ("ratings.dat", "movies.dat")
USERS = "users.dat"


def read(raw: Path, bad_rows: BadRows) -> Release:
    """Reads the files of the folder `raw`.

    Raises:
        UserError: a file is missing, or `bad_rows` rejects a row.
    """
    require_files(raw, FILES)
    log_file, films_file = (raw / name for name in FILES)
    users_file = raw / USERS

    films = read_films(films_file, bad_rows)
    rated = read_table(log_file, "::", ratings.COLUMNS, bad_rows)

    # Only 1M describes users. Without `users.dat`, only 10M has half stars.
    users = users_1m(users_file, bad_rows) if users_file.is_file() else None
    is_1m = users is not None or _all_whole(rated["rating"])
    stars = STARS if is_1m else HALF_STARS

    log = ratings.log_of_ratings(rated, log_file, stars, bad_rows)
    listed_users = None if users is None else (users, users_file)
    log = ratings.keep_listed(log, log_file, (films, films_file), listed_users, bad_rows)
    return Release(
        films=films.select(["item_id", "title"]),
        genres=genres.from_lists(films),
        log=log,
        stars=stars,
        users=users,
    )


def read_films(file: Path, bad_rows: BadRows) -> pa.Table:
    """Reads `movies.dat`: a table of `item_id`, `title`, `genres` (such as "Comedy|Drama")."""
    columns = {"item_id": pa.int64(), "title": pa.string(), "genres": pa.string()}
    films = read_table(file, "::", columns, bad_rows, encoding=encoding_of(file))
    return keep_first(films, file, bad_rows, "item_id")


def _all_whole(ratings: pa.ChunkedArray) -> bool:
    """Returns whether there are no half stars."""
    whole: bool = pc.all(pc.equal(ratings, pc.trunc(ratings)), min_count=0).as_py()
    return whole
