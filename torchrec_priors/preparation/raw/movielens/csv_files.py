"""Reads 20M, 25M, 32M and "latest", whose files end in `.csv`, and Kaggle's copy of 20M."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.preparation.raw import (
    LINE,
    BadRows,
    keep_first,
    keep_valid,
    read_csv,
    require_files,
)
from torchrec_priors.preparation.raw.movielens import genres, ratings
from torchrec_priors.preparation.raw.movielens.release import HALF_STARS, Release

FILES = ("ratings.csv", "movies.csv")
KAGGLE = ("rating.csv", "movie.csv")


def read(raw: Path, names: tuple[str, str], bad_rows: BadRows) -> Release:
    """Reads the files of the folder `raw`.

    Args:
        names: `FILES` or `KAGGLE`.

    Raises:
        UserError: a file is missing or lacks a column, or `bad_rows` rejects a row.
    """
    require_files(raw, names)
    log_file, films_file = (raw / name for name in names)

    columns = {"movieId": pa.int64(), "title": pa.string(), "genres": pa.string()}
    films = read_csv(films_file, columns, bad_rows)
    films = films.rename_columns(["item_id", "title", "genres", LINE])
    films = keep_first(films, films_file, bad_rows, "item_id")

    # The times in Kaggle's file are texts, which are converted below.
    seconds = pa.string() if names == KAGGLE else pa.int64()
    columns = {
        "userId": pa.int64(),
        "movieId": pa.int64(),
        "rating": pa.float64(),
        "timestamp": seconds,
    }
    rated = read_csv(log_file, columns, bad_rows)
    if names == KAGGLE:
        rated = _in_seconds(rated, log_file, bad_rows)
    rated = rated.rename_columns([*ratings.COLUMNS, LINE])

    log = ratings.log_of_ratings(rated, log_file, HALF_STARS, bad_rows)
    return Release(
        films=films.select(["item_id", "title"]),
        genres=genres.from_lists(films),
        log=ratings.keep_listed(log, log_file, (films, films_file), None, bad_rows),
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
