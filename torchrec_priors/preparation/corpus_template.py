"""Our shop: log.csv (user_id, item_id, timestamp, action) and items.csv (item_id, title, category).

This file turns the raw files of our shop into a log and a catalogue. Change the names of files and
columns to yours, then run:

    torchrec-priors prepare --dataset THIS_FILE --raw FOLDER_OF_THE_FILES --out prepared/shop

Rows that break a rule below are errors that name the file and the line. With --on-bad-row drop they
are left out and counted. All tables are Ibis tables: their rows are read by an engine (DuckDB, or
Spark) and need not fit in memory.
"""

from pathlib import Path

import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.raw import BadRows, require_files

# The types of events, if the log has them. Their order is the order of their codes: 0, 1, 2.
EVENTS = ("view", "cart", "buy")


def load(raw: Path, bad_rows: BadRows, engine: Engine) -> Corpus:
    require_files(raw, ["log.csv", "items.csv"])

    # The columns to read, with their types: text, integers (pa.int64()) or floats (pa.float64()).
    # `engine.read_parquet` reads Parquet files. Several files may be given, such as one a day.
    text = pa.string()
    log_columns = {"user_id": text, "item_id": text, "timestamp": pa.int64(), "action": text}
    item_columns = {"item_id": text, "title": text, "category": text}
    log = engine.read_csv([raw / "log.csv"], log_columns, bad_rows)
    items = engine.read_csv([raw / "items.csv"], item_columns, bad_rows)
    engine.require_unique(items, "item_id")

    # The rules of the log. The third part is true for good rows, or a table of the allowed values.
    rules = [
        Rule("user_id", "must have a value", log.user_id != ""),
        Rule("item_id", "must be listed in items.csv", items),
        Rule("action", f"must be one of {', '.join(EVENTS)}", log.action.isin(EVENTS)),
    ]
    log = engine.keep_all_valid(log, rules, bad_rows)

    # A label of items becomes a prior: a group of items for each value, and "no category" for items
    # without one. An item with several labels has a row for each of them.
    categories = items.select("item_id", label=items.category.nullif(""))

    codes = [(name, code) for code, name in enumerate(EVENTS)]
    return Corpus(
        name="shop",
        interactions=log.select(
            "user_id",
            "item_id",
            # Times are milliseconds since 1970. If yours are seconds: log.timestamp * 1000.
            "timestamp",
            # The position of the row in the files, which orders rows with equal times.
            "order",
            event=log.action.cases(*codes).cast("int8"),
        ),
        # Every item once. Further columns are kept in items.parquet.
        items=items.select("item_id", "title"),
        # The prior whose groups measure how varied recommendations are.
        category_prior="category",
        # How many of a user's next items a model predicts. A user needs more than twice as many
        # interactions; others are left out and counted. `--horizon` overrides it.
        default_horizon=2,
        # Leave these two lines, EVENTS and the column `event` out if your log has no types.
        events=EVENTS,
        event_prior="action",
        item_priors=[Labels("category", categories, remainder="no category")],
        # Labels of users work the same way, with the column `user_id`:
        # user_priors=[Labels("segment", segments, remainder="no segment")],
    )
