"""MerRec (Mercari, CC BY-NC 4.0): half a year of a marketplace in the US, May to October 2023.

Users of the marketplace sell to each other. There is a folder for each month with files such as
`20230501/000000000000.parquet`, in which each row is an event. These columns are read: user_id,
stime, event_id, product_id or item_id, name, price, c0_name to c2_name, brand_name,
item_condition_id and color. The data card, `merrec.md`, lists all columns and says how to get the
files. Expected: 5.56 million users, 83.07 million listings, 1.27 billion events; with the default
options 119,754 users and 521 million events (the paper's Table 4).

An item is a product by default. The rows of an item may differ. Its title, price, categories,
brand, condition and colour are those of its first row in the files.

Priors: `c0` (the category prior), `c1`, `c2` (categories within those of the level above), `brand`
(a group for each of the most frequent brands), `event`, and, if an item is a listing, `condition`.
Source: https://huggingface.co/datasets/mercari-us/merrec; Lichi Li et al., KDD 2025,
arXiv:2402.14230.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.label_counts import largest
from torchrec_priors.preparation.build.long_histories import at_least
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.raw import BadRows, found_in
from torchrec_priors.preparation.raw.published import (
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    either,
    found_types,
    milliseconds,
    signed,
    since_1970,
    there,
)
from torchrec_priors.synthetic.merrec import EVENTS, generate

__all__ = ["Options", "generate", "load"]

_CONDITIONS = ((1, "New"), (2, "Like new"), (3, "Good"), (4, "Fair"), (5, "Poor"))
_ABOUT_ITEMS = {
    "name": TEXT,
    "price": NUMBER,
    "c0_name": TEXT,
    "c1_name": TEXT,
    "c2_name": TEXT,
    "brand_name": TEXT,
    "item_condition_id": WHOLE,
    "color": TEXT,
}


@dataclass(frozen=True)
class Options:
    """The options that users set with `--option`.

    Attributes:
        item_id: the column that identifies an item: products (`product_id`), or single listings
            (`item_id`).
        min_history: users with fewer events are left out. The default is the paper's filter.
        brands: the number of brands that are groups of the prior `brand`. There are two more
            groups, "other brands" and "no brand".
    """

    item_id: Literal["product_id", "item_id"] = "product_id"
    min_history: int = 2_000
    brands: int = 100

    def __post_init__(self) -> None:
        """Raises UserError if a number is out of range."""
        if self.brands < 1:
            raise UserError(f"--option: brands must be at least 1, not {self.brands}")


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    files = _shards(raw)
    required = {
        "user_id": WHOLE,
        "stime": TIME,
        "event_id": TEXT,
        options.item_id: either(WHOLE, TEXT),
    }
    # The first file decides the types of the columns. All other files must have the same types.
    log = engine.read_parquet(files, found_types(files[0], {**required, **_ABOUT_ITEMS}), bad_rows)

    rules = [
        *there(log, required),
        Rule("event_id", f"must be one of {', '.join(EVENTS)}", log.event_id.isin(EVENTS)),
        Rule("stime", "must not be before 1970", since_1970(log.stime)),
    ]
    log = engine.keep_all_valid(log, rules, bad_rows)
    log = at_least(log, options.min_history, engine, bad_rows)

    # Only items of the kept users are in the catalogue. The table is stored because every prior
    # reads it.
    items = engine.materialise("corpus_items", _items(engine, log, options.item_id))
    # The codes of events are their positions in EVENTS.
    codes = [(name, code) for code, name in enumerate(EVENTS)]
    return Corpus(
        name="merrec",
        interactions=log.select(
            "order",
            user_id=log.user_id.cast("int64"),
            item_id=signed(log[options.item_id]),
            timestamp=milliseconds(log.stime),
            event=log.event_id.cases(*codes).cast("int8"),
        ),
        items=items,
        category_prior="c0",
        default_horizon=1,
        events=EVENTS,
        event_prior="event",
        item_priors=_priors(items, options),
        min_history=options.min_history,
        items_met=True,
    )


def _shards(raw: Path) -> list[Path]:
    """Returns the files of all months in `raw`, or of one month if `raw` is the month's folder."""
    if not raw.is_dir():
        raise UserError(f"--raw: there is no folder '{raw}'")

    # The folders of the months may be one folder deeper, where an archive was unpacked.
    for form in ("[0-9]*/*.parquet", "*.parquet", "*/[0-9]*/*.parquet"):
        files = sorted(raw.glob(form))
        if files:
            return files

    raise UserError(
        f"--raw: '{raw}' holds no month of MerRec, such as 20230501/000000000000.parquet "
        f"({found_in(raw)})"
    )


def _priors(items: ir.Table, options: Options) -> list[Labels]:
    """Returns the priors of items."""
    priors = [
        Labels(name, _categories(items, level), f"no {name}")
        for level, name in enumerate(("c0", "c1", "c2"))
    ]
    priors.append(Labels("brand", _brands(items, options.brands), "no brand"))

    # Listings of one product differ in condition.
    if options.item_id == "item_id":
        conditions = items.item_condition_id.cases(*_CONDITIONS)
        labels = items.select("item_id", label=conditions)
        priors.append(Labels("condition", labels, "no condition"))
    return priors


def _items(engine: Engine, log: ir.Table, item_id: str) -> ir.Table:
    """Returns the attributes of each item, from its first row."""
    # The smallest `order` of an item identifies its first row.
    first = log.group_by(item_id).aggregate(order=log["order"].min()).select("order")
    row = log.semi_join(engine.materialise("first_rows", first), "order")
    return row.select(
        *(name for name in _ABOUT_ITEMS if name not in ("name", "price")),
        item_id=signed(row[item_id]),
        title=row.name.fill_null(""),
        price=row.price.cast("float64"),
    )


def _categories(items: ir.Table, level: int) -> ir.Table:
    """Returns the categories of a level, whose names include the levels above.

    Without these, "Women > Shoes" and "Men > Shoes" would be the same category "Shoes".
    """
    # If one of the names is null, the whole label is null, and the item is in the remainder group.
    label = items.c0_name
    for above in range(1, level + 1):
        label = label + " > " + items[f"c{above}_name"]
    return items.select("item_id", label=label)


def _brands(items: ir.Table, most: int) -> ir.Table:
    """Returns a table of (item_id, label) with the brands of most items, and one label for others.

    Args:
        items: the catalogue.
        most: the number of brands that are labels.
    """
    branded = items.filter(items.brand_name.notnull() & (items.brand_name != ""))
    return largest(branded.select("item_id", label="brand_name"), most, "other brands")
