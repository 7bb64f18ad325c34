"""Turns ratings into interactions, with the stars as events."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.preparation.raw import LINE, BadRows, keep_valid

# The columns of ratings in the order of all official files, which name them differently.
COLUMNS = {
    "user_id": pa.int64(),
    "item_id": pa.int64(),
    "rating": pa.float64(),
    "seconds": pa.int64(),
}


def log_of_ratings(
    ratings: pa.Table, file: Path, stars: tuple[str, ...], bad_rows: BadRows
) -> pa.Table:
    """Returns the valid ratings as interactions, still with the column `line`.

    Args:
        ratings: a table with `COLUMNS` and `line`.
        file: the file of the ratings, for messages.
        stars: the names of the possible ratings, which are evenly spaced up to 5.
        bad_rows: handles ratings between two steps, and times beyond 64 bits.
    """
    # The code of a rating is its index in `stars`. Ratings between two steps have no code.
    step = 5 / len(stars)
    code = pc.subtract(pc.divide(ratings["rating"], step), 1.0)
    ratings = ratings.append_column("code", code)
    has_code = pc.is_in(code, pa.array(range(len(stars)), pa.float64()))
    ratings = keep_valid(
        ratings, has_code, file, bad_rows, "rating", f"must be {step:g} to 5 in steps of {step:g}"
    )

    # Times are stored in milliseconds as int64, so larger values would overflow.
    in_range = pc.less(pc.abs(ratings["seconds"]), 2**63 // 1000)
    ratings = keep_valid(ratings, in_range, file, bad_rows, "seconds", "must fit in milliseconds")

    return pa.table(
        {
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "timestamp": pc.multiply(ratings["seconds"], 1000),
            "order": ratings[LINE],
            "event": ratings["code"].cast(pa.int8()),
            LINE: ratings[LINE],
        }
    )


def keep_listed(
    log: pa.Table,
    file: Path,
    films: tuple[pa.Table, Path],
    users: tuple[pa.Table, Path] | None,
    bad_rows: BadRows,
) -> pa.Table:
    """Returns the interactions of listed users with listed films, without the column `line`.

    Args:
        log: a table of `user_id`, `item_id`, `line` and any other columns.
        file: the file of the interactions, for messages.
        films: the films, with `item_id`, and their file.
        users: the users, with `user_id`, and their file; None if the release does not list users.
        bad_rows: handles the other interactions.
    """
    table, listing = films
    listed = pc.is_in(log["item_id"], table["item_id"])
    log = keep_valid(log, listed, file, bad_rows, "item_id", f"must be listed in {listing.name}")

    if users is not None:
        table, listing = users
        listed = pc.is_in(log["user_id"], table["user_id"])
        log = keep_valid(
            log, listed, file, bad_rows, "user_id", f"must be listed in {listing.name}"
        )
    return log.drop_columns([LINE])
