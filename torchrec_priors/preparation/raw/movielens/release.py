"""Defines the tables of a release of MovieLens."""

from dataclasses import dataclass

import pyarrow as pa

STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
HALF_STARS = ("0.5 stars", "1 star", *(f"{half / 2:g} stars" for half in range(3, 11)))


@dataclass(frozen=True)
class Release:
    """The tables of a release. They have the same columns for all releases.

    Attributes:
        films: a table of `item_id`, `title`, and any other attributes.
        genres: a table of `item_id`, `label`.
        log: a table of `user_id`, `item_id`, `timestamp`, `order`, and `event` if there are stars.
            `timestamp` is in ms since 1970 or, without times, the position in the user's history.
        stars: the names of the possible ratings, by code of the event; empty if the files do not
            contain ratings.
        users: a table of `user_id`, `age`, `gender`, `occupation`; None if the files do not
            describe users.
        has_times: whether `timestamp` is a time.
    """

    films: pa.Table
    genres: pa.Table
    log: pa.Table
    stars: tuple[str, ...]
    users: pa.Table | None = None
    has_times: bool = True
