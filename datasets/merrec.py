"""MerRec (Mercari, CC BY-NC 4.0): half a year of a C2C marketplace in the US, May to October 2023.

Files: a folder a month, `20230501/000000000000.parquet` and so on, one row an event. Read are user_id, stime, event_id,
product_id or item_id, name, price, c0_name to c2_name, brand_name, item_condition_id and color; the data card,
`merrec.md`, has all columns, and how to get them. Expected: 5.56 million users, 83.07 million listings, 1.27 billion
events; with options as they are 119,754 users and 521 million events (the paper's Table 4).

An item is a product by default. Of an item's rows, which may differ, the first in the files tells its title, price,
categories, brand, condition and colour.

Priors: `c0` (the category prior), `c1`, `c2` (each within its parent), `brand` (the most frequent ones), `event`, and
where an item is a listing `condition`. Source: https://huggingface.co/datasets/mercari-us/merrec; Lichi Li et al.,
KDD 2025, arXiv:2402.14230.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir

from torchrec_priors.errors import UserError
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
    """Attributes:
    item_id: the column that says what is recommended: products, or single listings.
    min_history: users of fewer events are left out; the paper's filter.
    brands: groups of the prior `brand` beside "other brands" and "no brand".
    """

    item_id: Literal["product_id", "item_id"] = "product_id"
    min_history: int = 2_000
    brands: int = 100

    def __post_init__(self) -> None:
        if self.brands < 1:
            raise UserError(f"--option: brands must be at least 1, not {self.brands}")


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    files = _shards(raw)
    known = {
        "user_id": WHOLE,
        "stime": TIME,
        "event_id": TEXT,
        options.item_id: either(WHOLE, TEXT),
    }
    log = engine.read_parquet(files, found_types(files[0], {**known, **_ABOUT_ITEMS}), bad_rows)
    rules = [
        *there(log, known),
        Rule("event_id", f"must be one of {', '.join(EVENTS)}", log.event_id.isin(EVENTS)),
        Rule("stime", "must not be before 1970", since_1970(log.stime)),
    ]
    log = at_least(
        engine.keep_all_valid(log, rules, bad_rows), options.min_history, engine, bad_rows
    )
    items = engine.materialise("corpus_items", _items(engine, log, options.item_id))
    codes = [(name, code) for code, name in enumerate(EVENTS)]
    priors = [
        Labels(name, _categories(items, level), f"no {name}")
        for level, name in enumerate(("c0", "c1", "c2"))
    ]
    priors.append(Labels("brand", _brands(items, options.brands), "no brand"))
    if options.item_id == "item_id":
        conditions = items.item_condition_id.cases(*_CONDITIONS)
        priors.append(
            Labels("condition", items.select("item_id", label=conditions), "no condition")
        )
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
        item_priors=priors,
        min_history=options.min_history,
        items_met=True,
    )


def _shards(raw: Path) -> list[Path]:
    """Of all months in the folder, or of the one month that it is."""
    if not raw.is_dir():
        raise UserError(f"--raw: there is no folder '{raw}'")
    forms = ("[0-9]*/*.parquet", "*.parquet", "*/[0-9]*/*.parquet")  # the last: one folder deeper
    files = next((found for form in forms if (found := sorted(raw.glob(form)))), [])
    if not files:
        said = found_in(raw)
        raise UserError(
            f"--raw: '{raw}' holds no month of MerRec, such as 20230501/000000000000.parquet ({said})"
        )
    return files


def _items(engine: Engine, log: ir.Table, item_id: str) -> ir.Table:
    """What the first row of each item says of it."""
    first = log.group_by(item_id).aggregate(order=log["order"].min()).select("order")
    row = log.semi_join(engine.materialise("first_rows", first), "order")
    return row.select(
        *(name for name in _ABOUT_ITEMS if name not in ("name", "price")),
        item_id=signed(row[item_id]),
        title=row.name.fill_null(""),
        price=row.price.cast("float64"),
    )


def _categories(items: ir.Table, level: int) -> ir.Table:
    """Names with those of the levels above, as "Shoes" of one is not that of another."""
    label = items.c0_name
    for above in range(1, level + 1):
        label = label + " > " + items[f"c{above}_name"]
    return items.select("item_id", label=label)


def _brands(items: ir.Table, most: int) -> ir.Table:
    """The brands of most items by name, all others as one."""
    branded = items.filter(items.brand_name.notnull() & (items.brand_name != ""))
    counts = branded.group_by("brand_name").aggregate(n=branded.count())
    frequent = (
        counts.order_by([ibis.desc("n"), "brand_name"]).limit(most).select(frequent="brand_name")
    )
    joined = branded.left_join(frequent, branded.brand_name == frequent.frequent)
    return joined.select("item_id", label=joined.frequent.fill_null("other brands"))
