"""Reads the users of 100K and 1M: ages as bands, genders and occupations as names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.preparation.raw import (
    BadRows,
    encoding_of,
    keep_first,
    keep_valid,
    read_table,
)

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


def users_100k(raw: Path, bad_rows: BadRows) -> pa.Table:
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


def users_1m(file: Path, bad_rows: BadRows) -> pa.Table:
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
    users = keep_first(users, file, bad_rows, "user_id")
    return keep_valid(
        users, pc.greater_equal(users["years"], 0), file, bad_rows, "years", "must not be negative"
    )


def _with_age(users: pa.Table) -> pa.Table:
    """Returns the users with a column `age`, the name of the age band."""
    bands = [_age_band(years) for years in users["years"].to_pylist()]
    return users.append_column("age", pa.array(bands, pa.string()))


def _age_band(years: int) -> str:
    return next(name for low, name in reversed(AGE_BANDS) if years >= low)
