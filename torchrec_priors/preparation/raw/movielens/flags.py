"""Reads 100K, in which every film has a flag for each genre."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw import (
    BadRows,
    encoding_of,
    keep_first,
    keep_valid,
    read_table,
    require_files,
)
from torchrec_priors.preparation.raw.movielens import genres, ratings
from torchrec_priors.preparation.raw.movielens.release import STARS, Release
from torchrec_priors.preparation.raw.movielens.users import users_100k

FILES = ("u.data", "u.item", "u.user")
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip


def read(raw: Path, bad_rows: BadRows) -> Release:
    """Reads the files of the folder `raw`.

    Raises:
        UserError: a file is missing, the list of genres is wrong, or `bad_rows` rejects a row.
    """
    require_files(raw, FILES)
    log_file, films_file, users_file = (raw / name for name in FILES)

    flags = {f"flag:{genre}": genre for genre in _genre_names(raw)}
    films = _films(films_file, tuple(flags), bad_rows)
    rated = read_table(log_file, "\t", ratings.COLUMNS, bad_rows)
    users = users_100k(raw, bad_rows)

    log = ratings.log_of_ratings(rated, log_file, STARS, bad_rows)
    log = ratings.keep_listed(log, log_file, (films, films_file), (users, users_file), bad_rows)
    return Release(
        films=films.select(["item_id", "title", "release_date", "url"]),
        genres=genres.from_flags(films, flags),
        log=log,
        stars=STARS,
        users=users,
    )


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


def _films(file: Path, flags: tuple[str, ...], bad_rows: BadRows) -> pa.Table:
    texts = {name: pa.string() for name in ("title", "release_date", "video_release_date", "url")}
    columns = {"item_id": pa.int64(), **texts, **dict.fromkeys(flags, pa.int8())}
    films = read_table(file, "|", columns, bad_rows, encoding=encoding_of(file))

    for flag in flags:
        valid = pc.is_in(films[flag], pa.array([0, 1], pa.int8()))
        films = keep_valid(films, valid, file, bad_rows, flag, "must be 0 or 1")

    return keep_first(films, file, bad_rows, "item_id")
