"""Writes a synthetic marketplace as raw files.

Users are written in chunks, so memory does not grow with the log.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.parquet import ParquetWriter, write_table
from torchrec_priors.synthetic.catalogue import Catalogue, items_for
from torchrec_priors.synthetic.folder import Report, make_folder
from torchrec_priors.synthetic.histories import (
    EVENTS,
    LENGTHS,
    SPENDING,
    MadeUpHistories,
    make_histories,
)
from torchrec_priors.synthetic.users import chunks

LOG = "log.parquet"
ITEMS = "items.parquet"
USERS = "users.parquet"
TRUTH = "truth/interests.parquet"  # the planted interests, for checks; no corpus reads it
_VERSION = 1  # raised when the same seed gives different files from before
_USERS_AT_ONCE = 4096


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Report = lambda _: None,
    *,
    users_at_once: int = _USERS_AT_ONCE,
) -> None:
    """Writes a folder with a log of exactly `rows` interactions.

    Nothing is written if the folder already contains the same log.

    Args:
        raw: The folder.
        rows: The number of interactions of all users.
        seed: The seed of all draws.
        report: Called with messages about the progress.
        users_at_once: The number of users in memory at a time. The content does not depend on it.

    Raises:
        UserError: There are too few rows, the seed is out of range, or the folder contains
            something else.
    """

    def write(folder: Path) -> None:
        _write(folder, rows, seed, users_at_once, report)

    make_folder(raw, "marketplace", _VERSION, rows, seed, report, write)


def _write(folder: Path, rows: int, seed: int, users_at_once: int, report: Report) -> None:
    catalogue = Catalogue.make(items_for(rows), seed)
    write_table(catalogue.table(), folder / ITEMS)
    (folder / TRUTH).parent.mkdir()

    done = 0
    with (
        ParquetWriter(folder / LOG, _LOG_SCHEMA) as log,
        ParquetWriter(folder / USERS, _USERS_SCHEMA) as users,
        ParquetWriter(folder / TRUTH, _TRUTH_SCHEMA) as truth,
    ):
        # The number of a row depends on the users before it, not on the size of the chunks.
        for numbers, lengths in chunks(rows, seed, LENGTHS, users_at_once):
            made = make_histories(catalogue, seed, numbers, lengths)
            log.write_table(_log_table(made, catalogue, done))
            users.write_table(_users_table(made))
            truth.write_table(_truth_table(made, catalogue))

            done += int(lengths.sum())
            report(f"generating {done:,} of {rows:,} rows")


_NAMES = pa.dictionary(pa.int32(), pa.string())
_LOG_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "event": _NAMES,
        "time": pa.int64(),
    }
)
_USERS_SCHEMA = pa.schema({"user_id": pa.int64(), "spending": _NAMES})
_TRUTH_SCHEMA = pa.schema(
    {"user_id": pa.int64(), "category3": _NAMES, "from": pa.int64(), "until": pa.int64()}
)


def _log_table(made: MadeUpHistories, catalogue: Catalogue, first_row: int) -> pa.Table:
    columns = {
        "row": np.arange(first_row, first_row + len(made.event)),
        "user_id": np.repeat(made.users, made.lengths),
        "item_id": catalogue.item_id[made.position],
        "event": _named(made.event, EVENTS),
        "time": made.time,
    }
    return pa.table(columns, schema=_LOG_SCHEMA)


def _users_table(made: MadeUpHistories) -> pa.Table:
    return pa.table(
        {"user_id": made.users, "spending": _named(made.spending, SPENDING)}, schema=_USERS_SCHEMA
    )


def _truth_table(made: MadeUpHistories, catalogue: Catalogue) -> pa.Table:
    columns = {
        "user_id": made.interest_user,
        "category3": _named(made.interest_leaf, [leaf.level3 for leaf in catalogue.tree]),
        "from": made.interest_from,
        "until": made.interest_until,
    }
    return pa.table(columns, schema=_TRUTH_SCHEMA)


def _named(codes: np.ndarray, names: tuple[str, ...] | list[str]) -> pa.DictionaryArray:
    """Returns the names of codes."""
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(names, pa.string())
    )
