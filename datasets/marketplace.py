"""A synthetic marketplace on which users sell to each other, shaped like MerRec.

`prepare --generate ROWS` writes a log of any size. The files are in Parquet: `log` (row, user_id,
item_id, event, time in ms), `items` (item_id, title, category, category2, category3, price in
cents) and `users` (user_id, spending).

`torchrec_priors/synthetic/` describes how the log is generated. There are two worlds. In the world
`sessions`, a session is about one interest; it has MerRec's shares of event types, interests that
are replaced by others, and purchases that follow views. In the world `mixed`, users mix interests,
and every signal has a share that can be set (see the card, `marketplace.md`). Both have six event
types, users with 5 to 500 interactions, and Zipf popularity. The folder `truth` keeps what was
planted, for checks. This file does not read it.

Priors: `category` (10 groups; the category prior), `category2` (60), `category3` (240; small
catalogues use only a part of these groups), `event`, and for users `spending`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine, Rule
from torchrec_priors.preparation.raw import BadRows, folder_with, require_files
from torchrec_priors.synthetic import files
from torchrec_priors.synthetic.files import ITEMS, LOG, USERS
from torchrec_priors.synthetic.histories import EVENTS
from torchrec_priors.synthetic.mixed.mix import Mix

_LEVELS = ("category", "category2", "category3")


@dataclass(frozen=True)
class Generation:
    """Options of the generated log.

    Attributes:
        world: `sessions` (a session is about one interest), or `mixed` (users mix interests).
        items: the number of items of the catalogue; 0.25 rows^0.75 if it is not given.
        long_term: (`mixed`) the share of interactions drawn from the user's long-term interests.
        session: (`mixed`) the share drawn from the session's topics.
        event: (`mixed`) the share drawn from the favourites of the event type.
        community: (`mixed`) the share drawn from the user's communities of items.
        group: (`mixed`) the share drawn from the favourites of the user's group.
        drift: (`mixed`) how far the weights of long-term interests move, in logits.
        communities: (`mixed`) the number of communities; one for every 40 items if not given.
    """

    world: Literal["sessions", "mixed"] = "sessions"
    items: int | None = None
    long_term: float | None = None
    session: float | None = None
    event: float | None = None
    community: float | None = None
    group: float | None = None
    drift: float | None = None
    communities: int | None = None

    def mix(self) -> Mix | None:
        """Returns the settings of the world `mixed`, or None for the other world.

        Raises:
            UserError: a value is out of range, or belongs to the other world.
        """
        values = {field.name: getattr(self, field.name) for field in fields(Mix)}
        given = {name: value for name, value in values.items() if value is not None}
        if self.world == "mixed":
            return Mix(**given)

        if given:
            raise UserError(f"--option: {', '.join(given)} needs --option world=mixed")
        return None


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
    options: Generation = Generation(),
) -> None:
    """Writes a folder with a log of exactly `rows` interactions; see `synthetic/files.py`."""
    files.generate(raw, rows, seed, report, items=options.items, mix=options.mix())


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
        user_priors=[
            Labels("spending", _labels(users, "user_id", "spending"), "unknown spending", "{}")
        ],
        user_group="spending",
    )


def _complete(
    file: Path, columns: dict[str, pa.DataType], bad_rows: BadRows, engine: Engine
) -> ir.Table:
    """Reads a table without nulls, and checks that the ids in the first column are unique."""
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
    """Returns the valid rows of the log. Their items and users must be in the other files."""
    numbers = ("user_id", "item_id", "time")
    log = engine.read_parquet(
        [file], {**dict.fromkeys(numbers, pa.int64()), "event": pa.string()}, bad_rows
    )

    # A row that breaks several rules is reported for the first one. Missing values come first,
    # because they break other rules, too.
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
