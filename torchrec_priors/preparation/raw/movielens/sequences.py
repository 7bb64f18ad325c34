"""Reads 1M in the text form of published comparisons: the order of each user's films, no times.

Titles and users are in the official files of 1M. Only films that a user rated are in the
catalogue, because published comparisons rank these films.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw import (
    BadRows,
    read_histories,
    read_label_lists,
    read_label_names,
    require_files,
)
from torchrec_priors.preparation.raw.movielens.dat import USERS, read_films
from torchrec_priors.preparation.raw.movielens.ratings import keep_listed
from torchrec_priors.preparation.raw.movielens.release import Release
from torchrec_priors.preparation.raw.movielens.users import users_1m

SEQUENCES = "ML-1M.txt"
LABELS = "ML-1M_item2attributes.json"
NAMES = "genres.json"
FILMS = "movies.dat"
FILES = (SEQUENCES, LABELS, NAMES, FILMS)


def read(raw: Path, bad_rows: BadRows) -> Release:
    """Reads the files of the folder `raw`.

    Films that nobody rated are left out and counted.

    Raises:
        UserError: a file is missing, a user has two lines, a label has no name, or `bad_rows`
            rejects a row.
    """
    require_files(raw, FILES)
    log_file, films_file, users_file = (raw / name for name in (SEQUENCES, FILMS, USERS))

    films = read_films(films_file, bad_rows).select(["item_id", "title"])
    users = users_1m(users_file, bad_rows) if users_file.is_file() else None
    log = read_histories(log_file, bad_rows)
    listed_users = None if users is None else (users, users_file)
    log = keep_listed(log, log_file, (films, films_file), listed_users, bad_rows)

    rated = log["item_id"].unique()
    return Release(
        films=_rated(films, rated, films_file, bad_rows),
        genres=_rated(_genres(raw), rated, raw / LABELS, bad_rows),
        log=log,
        stars=(),
        users=users,
        has_times=False,
    )


def _genres(raw: Path) -> pa.Table:
    """Returns a table of (item_id, label) with the names of the labels.

    Raises:
        UserError: a label has no name.
    """
    names = read_label_names(raw / NAMES)
    items = []
    labels = []
    for item, of_item in read_label_lists(raw / LABELS).items():
        for label in of_item:
            if label not in names:
                raise UserError(
                    f"{raw / NAMES} has no name for label {label}, which {LABELS} gives to film"
                    f" {item}: add the name"
                )
            items.append(item)
            labels.append(names[label])
    return pa.table({"item_id": pa.array(items, pa.int64()), "label": pa.array(labels)})


def _rated(table: pa.Table, rated: pa.Array, file: Path, bad_rows: BadRows) -> pa.Table:
    """Returns the rows of films that a user rated, and counts the other films."""
    is_rated = pc.is_in(table["item_id"], rated)
    others = table["item_id"].filter(pc.invert(is_rated)).unique()
    if len(others):
        bad_rows.count(f"{file.name}: films without a rating in {SEQUENCES}", len(others))
    return table.filter(is_rated)
