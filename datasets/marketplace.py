"""A synthetic C2C marketplace shaped like MerRec (Mercari's): `prepare --generate ROWS` writes it.

Files (Parquet): `log` (row, user_id, item_id, event, time in ms), `items` (item_id, title,
category, category2, category3, price in cents), `users` (user_id, spending). The log can be of any
size. `torchrec_priors/synthetic/` describes it and what is planted in it: six event types at
MerRec's shares, users of 5 to 500 interactions, Zipf popularity, interests that drift, sessions,
purchases that follow views. `truth/interests.parquet` keeps the planted interests (user_id,
category3, from, until) for checks; nothing here reads it.

Priors: `category` (10 groups; the category prior), `category2` (60), `category3` (240; small
catalogues use part of the tree), `event`, `spending` (users).
"""

from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine, Rule
from torchrec_priors.preparation.raw import BadRows, folder_with, require_files
from torchrec_priors.synthetic.files import ITEMS, LOG, USERS, generate
from torchrec_priors.synthetic.histories import EVENTS

__all__ = ["generate", "load"]

_LEVELS = ("category", "category2", "category3")


def load(raw: Path, bad_rows: BadRows, engine: Engine) -> Corpus:
    raw = folder_with(raw, [LOG, ITEMS, USERS])
    require_files(raw, [LOG, ITEMS, USERS])

    number = pa.int64()
    text = pa.string()
    about_items = {"item_id": number, **dict.fromkeys(("title", *_LEVELS), text), "price": number}
    items = _complete(raw / ITEMS, about_items, bad_rows, engine)
    users = _complete(raw / USERS, {"user_id": number, "spending": text}, bad_rows, engine)

    return Corpus(
        name="marketplace",
        interactions=_interactions(raw / LOG, items, users, bad_rows, engine),
        items=items.select("item_id", "title", "price"),
        category_prior="category",
        default_horizon=8,
        events=EVENTS,
        event_prior="event",
        item_priors=[
            Labels(level, _labels(items, "item_id", level), f"no {level}") for level in _LEVELS
        ],
        user_priors=[Labels("spending", _labels(users, "user_id", "spending"), "unknown spending")],
        user_group="spending",
    )


def _complete(
    file: Path, columns: dict[str, pa.DataType], bad_rows: BadRows, engine: Engine
) -> ir.Table:
    """Returns a table without nulls, of which the first column is unique."""
    table = engine.read_parquet([file], columns, bad_rows)
    rules = [Rule(name, "must have a value", table[name].notnull()) for name in columns]
    table = engine.keep_all_valid(table, rules, bad_rows)
    engine.require_unique(table, next(iter(columns)))
    return table


def _labels(table: ir.Table, key: str, column: str) -> ir.Table:
    return table.select(key, label=table[column])


def _interactions(
    file: Path, items: ir.Table, users: ir.Table, bad_rows: BadRows, engine: Engine
) -> ir.Table:
    """Returns the log, whose rows must name items and users of the other files."""
    numbers = ("user_id", "item_id", "time")
    log = engine.read_parquet(
        [file], {**dict.fromkeys(numbers, pa.int64()), "event": pa.string()}, bad_rows
    )

    # A row counts for the first rule that it breaks, so missing values come first.
    rules = [
        *(Rule(name, "must have a value", log[name].notnull()) for name in numbers),
        Rule("user_id", f"must be listed in {USERS}", users),
        Rule("item_id", f"must be listed in {ITEMS}", items),
        Rule("event", f"must be one of {', '.join(EVENTS)}", log.event.isin(EVENTS)),
        Rule("time", "must not be negative", log.time >= 0),
    ]
    log = engine.keep_all_valid(log, rules, bad_rows)

    # The codes of events are their positions in EVENTS.
    codes = [(name, code) for code, name in enumerate(EVENTS)]
    return log.select(
        "user_id",
        "item_id",
        "order",
        timestamp=log.time,
        event=log.event.cases(*codes).cast("int8"),
    )
