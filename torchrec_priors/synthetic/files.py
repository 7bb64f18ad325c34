"""Writes a synthetic marketplace as raw files.

There are two worlds: one in which a session is about one interest (`histories.py`), and one in
which users mix interests (`mixed/`). Users are written in chunks, so memory does not grow with the
log.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError
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
from torchrec_priors.synthetic.mixed.histories import MixedHistories, make_mixed
from torchrec_priors.synthetic.mixed.mix import Mix
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.mixed.truth import Truth
from torchrec_priors.synthetic.tables import NAMES, named
from torchrec_priors.synthetic.users import chunks

CORPUS = "marketplace"
LOG = "log.parquet"
ITEMS = "items.parquet"
USERS = "users.parquet"
TRUTH = "truth/interests.parquet"  # the planted interests, for checks; no corpus reads it
VERSION = 1  # raised when the same seed and options give different files from before
LEAST_ITEMS = 10  # one for each level-1 category
MOST_ITEMS = 10_000_000
_USERS_AT_ONCE = 4096


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Report = lambda _: None,
    *,
    items: int | None = None,
    mix: Mix | None = None,
    users_at_once: int = _USERS_AT_ONCE,
) -> None:
    """Writes a folder with a log of exactly `rows` interactions.

    Nothing is written if the folder already contains the same log.

    Args:
        raw: The folder.
        rows: The number of interactions of all users.
        seed: The seed of all draws.
        report: Called with messages about the progress.
        items: The number of items of the catalogue; None for `items_for(rows)`.
        mix: The settings of the world in which users mix interests; None for the other world.
        users_at_once: The number of users in memory at a time. The content does not depend on it.

    Raises:
        UserError: There are too few rows, the number of items or the seed is out of range, or the
            folder contains something else.
    """
    if items is not None and not LEAST_ITEMS <= items <= MOST_ITEMS:
        raise UserError(f"--option: items = {items}: give {LEAST_ITEMS} to {MOST_ITEMS:,}")

    # A description without these keys is that of a log without options, of any version.
    options: dict[str, Any] = {}
    if items is not None:
        options["items"] = items
    if mix is not None:
        options["mix"] = mix.values()
        mix.communities_of(catalogue_size(rows, items))

    def write(folder: Path) -> None:
        catalogue = Catalogue.make(catalogue_size(rows, items), seed)
        write_table(catalogue.table(), folder / ITEMS)
        (folder / TRUTH).parent.mkdir()
        if mix is None:
            _write(folder, catalogue, rows, seed, users_at_once, report)
        else:
            _write_mixed(folder, catalogue, mix, rows, seed, users_at_once, report)

    make_folder(raw, CORPUS, VERSION, rows, seed, report, write, options)


def catalogue_size(rows: int, items: int | None) -> int:
    """Returns the number of items of the catalogue of a log, which may be given."""
    return items_for(rows) if items is None else items


def _write(
    folder: Path, catalogue: Catalogue, rows: int, seed: int, users_at_once: int, report: Report
) -> None:
    """Writes the log of users whose sessions are about one interest."""
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


def _write_mixed(
    folder: Path,
    catalogue: Catalogue,
    mix: Mix,
    rows: int,
    seed: int,
    users_at_once: int,
    report: Report,
) -> None:
    """Writes the log of users who mix interests."""
    structure = Structure.make(catalogue, mix.communities_of(len(catalogue.leaf)), seed)
    done = 0
    with (
        ParquetWriter(folder / LOG, _LOG_SCHEMA) as log,
        ParquetWriter(folder / USERS, _USERS_SCHEMA) as users,
        Truth((folder / TRUTH).parent, structure, mix) as truth,
    ):
        truth.write_items()
        for numbers, lengths in chunks(rows, seed, LENGTHS, users_at_once):
            made = make_mixed(structure, mix, seed, numbers, lengths)
            log.write_table(_log_table(made, catalogue, done))
            users.write_table(_users_table(made))
            truth.write(made, done)

            done += int(lengths.sum())
            report(f"generating {done:,} of {rows:,} rows")


_LOG_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "event": NAMES,
        "time": pa.int64(),
    }
)
_USERS_SCHEMA = pa.schema({"user_id": pa.int64(), "spending": NAMES})
_TRUTH_SCHEMA = pa.schema(
    {"user_id": pa.int64(), "category3": NAMES, "from": pa.int64(), "until": pa.int64()}
)


def _log_table(
    made: MadeUpHistories | MixedHistories, catalogue: Catalogue, first_row: int
) -> pa.Table:
    columns = {
        "row": np.arange(first_row, first_row + len(made.event)),
        "user_id": np.repeat(made.users, made.lengths),
        "item_id": catalogue.item_id[made.position],
        "event": named(made.event, EVENTS),
        "time": made.time,
    }
    return pa.table(columns, schema=_LOG_SCHEMA)


def _users_table(made: MadeUpHistories | MixedHistories) -> pa.Table:
    return pa.table(
        {"user_id": made.users, "spending": named(made.spending, SPENDING)}, schema=_USERS_SCHEMA
    )


def _truth_table(made: MadeUpHistories, catalogue: Catalogue) -> pa.Table:
    columns = {
        "user_id": made.interest_user,
        "category3": named(made.interest_leaf, [leaf.level3 for leaf in catalogue.tree]),
        "from": made.interest_from,
        "until": made.interest_until,
    }
    return pa.table(columns, schema=_TRUTH_SCHEMA)
