"""A made-up C2C marketplace shaped like MerRec (Mercari's), of any size: `prepare --generate ROWS` writes it.

Files (Parquet): `log` (row, user_id, item_id, event, time in ms), `items` (item_id, title, category, category2,
category3, price in cents), `users` (user_id, spending). What the log is, and what is planted in it:
`torchrec_priors/preparation/synthetic/`. Six event types at MerRec's shares, users of 5 to 500 interactions, Zipf
popularity, interests that drift, sessions, purchases that follow views. `truth/interests.parquet` keeps the planted
interests (user_id, category3, from, until) for checks; nothing here reads it.

Priors: `category` (10 groups; the category prior), `category2` (60), `category3` (240; small catalogues use part of the
tree), `event`, `spending` (users).
"""

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.parquet import keep_rows, open_parquet, read_parquet
from torchrec_priors.preparation.raw import BadRows, require_files
from torchrec_priors.preparation.synthetic.files import ITEMS, LOG, USERS, generate
from torchrec_priors.preparation.synthetic.histories import EVENTS

__all__ = ["generate", "load"]

_LEVELS = ("category", "category2", "category3")


def load(raw: Path, bad_rows: BadRows) -> Corpus:
    require_files(raw, [LOG, ITEMS, USERS])
    text = {name: pa.string() for name in ("title", *_LEVELS)}
    items = read_parquet(raw / ITEMS, {"item_id": pa.int64(), **text, "price": pa.int64()})
    users = read_parquet(raw / USERS, {"user_id": pa.int64(), "spending": pa.string()})
    for table, file, key in ((items, ITEMS, "item_id"), (users, USERS, "user_id")):
        if pc.count_distinct(table[key]).as_py() < table.num_rows:
            raise UserError(f"{raw / file} has the same {key} twice")
    return Corpus(
        name="marketplace",
        interactions=_interactions(raw / LOG, items, users, bad_rows),
        items=ibis.memtable(items.drop_columns(list(_LEVELS))),
        category_prior="category",
        default_horizon=8,
        events=EVENTS,
        event_prior="event",
        item_priors=[_labels(items, level, "item_id", f"no {level}") for level in _LEVELS],
        user_priors=[_labels(users, "spending", "user_id", "unknown spending")],
        user_group="spending",
    )


def _labels(table: pa.Table, column: str, key: str, remainder: str) -> Labels:
    labels = pa.table({key: table[key], "label": table[column].cast(pa.string())})
    return Labels(column, ibis.memtable(labels), remainder)


def _interactions(file: Path, items: pa.Table, users: pa.Table, bad_rows: BadRows) -> ibis.Table:
    """The log, checked by one pass a column and then left on disk."""
    numbers = {name: pa.int64() for name in ("row", "user_id", "item_id", "time")}
    log = open_parquet(file, {**numbers, "event": pa.string()})
    for name in numbers:
        log = keep_rows(log, pc.field(name).is_valid(), file, bad_rows, name, "must have a value")
    known = {
        "user_id": (users["user_id"], f"must be listed in {USERS}"),
        "item_id": (items["item_id"], f"must be listed in {ITEMS}"),
        "event": (pa.array(EVENTS), f"must be one of {', '.join(EVENTS)}"),
    }
    for name, (values, must) in known.items():
        log = keep_rows(log, pc.field(name).isin(values.unique()), file, bad_rows, name, must)
    log = keep_rows(log, pc.field("time") >= 0, file, bad_rows, "time", "must not be negative")
    table = ibis.memtable(log)
    codes = [(name, code) for code, name in enumerate(EVENTS)]
    return table.select(
        "user_id",
        "item_id",
        timestamp=table.time,
        order=table["row"],
        event=table.event.cases(*codes).cast("int8"),
    )
