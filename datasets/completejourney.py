"""The Complete Journey (84.51°; CC0): a year of grocery purchases of households.

One of its publishers calls the data simulated, based on real shopping patterns. The data card,
`completejourney.md`, says what the publishers write, and lists all columns. Three Parquet files are
read:

- `transactions.parquet`: household_id, product_id, quantity, transaction_timestamp; one row for
  each product of a basket,
- `products.parquet`: product_id, department, brand, product_category, product_type, package_size,
- `demographics.parquet`: household_id, age, income, home_ownership, marital_status,
  household_size, household_comp, kids_count.

Expected: 2,469 households, 68,509 products in 155,848 baskets, 1,469,307 rows, of which 8,869 have
the quantity 0; 801 households have demographics.

An interaction is a row with a quantity above 0. The files list the products of a basket by product
number, at one time. This order says nothing about the household, but a model could learn it.
Therefore the products of a basket get another order, which is computed with a hash.

Priors of products: `department`, `product_category` (the category prior), `product_type`, `brand`.
Priors of households: the columns of `demographics.parquet`.
Source: https://github.com/bradleyboehmke/completejourney.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.raw import BadRows, folder_with, require_files
from torchrec_priors.preparation.raw.published import (
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Kind,
    found_types,
    milliseconds,
    since_1970,
    there,
)

TRANSACTIONS = "transactions.parquet"
PRODUCTS = "products.parquet"
DEMOGRAPHICS = "demographics.parquet"
_FILES = (TRANSACTIONS, PRODUCTS, DEMOGRAPHICS)

_TRANSACTION_COLUMNS: Mapping[str, Kind] = {
    "household_id": WHOLE,
    "product_id": WHOLE,
    "transaction_timestamp": TIME,
    "quantity": NUMBER,
}
_ITEM_PRIORS = ("department", "product_category", "product_type", "brand")
_PRODUCT_COLUMNS: Mapping[str, Kind] = {
    "product_id": WHOLE,
    **dict.fromkeys((*_ITEM_PRIORS, "package_size"), TEXT),
}
# The priors of households, and the text around a value: "2" would not say what it counts.
_USER_PRIORS = {
    "age": "{}",
    "income": "{}",
    "home_ownership": "{}",
    "marital_status": "{}",
    "household_size": "household of {}",
    "household_comp": "{}",
    "kids_count": "kids: {}",
}
# The hash computes modulo this prime number, so that its products fit into int64.
_PRIME = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """The options that users set with `--option`.

    Attributes:
        catalogue: the products in the catalogue: those that the kept households have bought
            (`bought`), or also all others of `products.parquet` (`all`).
    """

    catalogue: Literal["bought", "all"] = "bought"


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    raw = folder_with(raw, _FILES)
    require_files(raw, _FILES)
    purchases = engine.materialise("corpus_purchases", _purchases(raw, bad_rows, engine))
    items = _items(raw / PRODUCTS, purchases, bad_rows, engine, options)
    return Corpus(
        name="completejourney",
        interactions=purchases,
        items=items,
        category_prior="product_category",
        default_horizon=8,
        item_priors=[
            Labels(name, items.select("item_id", label=name), f"no {name}") for name in _ITEM_PRIORS
        ],
        user_priors=_user_priors(raw / DEMOGRAPHICS, bad_rows, engine),
        user_group="age",
        items_met=options.catalogue == "bought",
    )


def _purchases(raw: Path, bad_rows: BadRows, engine: Engine) -> ir.Table:
    """Returns the interactions, and counts the rows that are not purchases."""
    file = raw / TRANSACTIONS
    log = engine.read_parquet([file], found_types(file, _TRANSACTION_COLUMNS), bad_rows)
    rules = [
        *there(log, _TRANSACTION_COLUMNS),
        Rule(
            "transaction_timestamp",
            "must not be before 1970",
            since_1970(log.transaction_timestamp),
        ),
        Rule("quantity", "must not be negative", log.quantity >= 0),
    ]
    log = engine.keep_all_valid(log, rules, bad_rows)

    # Nearly all rows of quantity 0 have no value, and half of them are of products that
    # `products.parquet` does not list. They are published, so they are counted, not refused.
    nothing_bought = engine.value((log.quantity == 0).sum().fill_null(0))
    if nothing_bought:
        bad_rows.count(f"{TRANSACTIONS}: quantity 0", int(nothing_bought))

    bought = log.filter(log.quantity > 0)
    bought = bought.select(
        "order",
        user_id=bought.household_id.cast("int64"),
        item_id=bought.product_id.cast("int64"),
        timestamp=milliseconds(bought.transaction_timestamp),
    )
    return _shuffled_baskets(bought)


def _shuffled_baskets(bought: ir.Table) -> ir.Table:
    """Returns the interactions with another order of those that have the same user and time.

    The order follows from a hash of user, item and time, which has no pattern over the items. It
    is computed with integers, so all engines give the same order.
    """
    item = bought.item_id % _PRIME
    base = (bought.timestamp // 1000 + bought.user_id) % _PRIME
    mixed = bought.mutate(hash=(item * 48271 + base * 69621) % _PRIME, item=item)

    # One square is not enough: the orders of two baskets would be rotations of each other.
    for _ in range(2):
        mixed = mixed.mutate(hash=(mixed.hash * mixed.hash % _PRIME + mixed.item) % _PRIME)

    # Each basket keeps its position in the file, so `prepare` still sees whether baskets are in
    # order of time.
    basket = [mixed.user_id, mixed.timestamp]
    by_hash = ibis.window(group_by=basket, order_by=[mixed.hash, mixed.item_id, mixed["order"]])
    whole = ibis.window(group_by=basket)
    position = mixed["order"].min().over(whole) + ibis.row_number().over(by_hash).cast("int64")
    return mixed.mutate(order=position).drop("hash", "item")


def _items(
    file: Path, purchases: ir.Table, bad_rows: BadRows, engine: Engine, options: Options
) -> ir.Table:
    """Returns the catalogue, which also has the products that were bought but are not listed."""
    products = engine.read_parquet([file], found_types(file, _PRODUCT_COLUMNS), bad_rows)
    products = engine.keep_all_valid(products, there(products, ["product_id"]), bad_rows)
    engine.require_unique(products, "product_id")
    about = products.select(
        listed_id=products.product_id.cast("int64"),
        # An empty text is not a label, like a missing value.
        **{name: products[name].nullif("") for name in _PRODUCT_COLUMNS if name != "product_id"},
    )

    ids = purchases.select("item_id").distinct()
    if options.catalogue == "all":
        ids = ids.union(about.select(item_id="listed_id"), distinct=True)
    items = ids.left_join(about, ids.item_id == about.listed_id).drop("listed_id")

    # The files have no names of products.
    name = ibis.coalesce(items.product_type, items.product_category, "product")
    number = items.product_type.isnull().ifelse(" " + items.item_id.cast("string"), "")
    size = (" " + items.package_size).fill_null("")
    return items.mutate(title=name + number + size)


def _user_priors(file: Path, bad_rows: BadRows, engine: Engine) -> list[Labels]:
    """Returns the priors of households. Households without demographics are in the remainder."""
    columns: Mapping[str, Kind] = {"household_id": WHOLE, **dict.fromkeys(_USER_PRIORS, TEXT)}
    households = engine.read_parquet([file], found_types(file, columns), bad_rows)
    households = engine.keep_all_valid(households, there(households, ["household_id"]), bad_rows)
    engine.require_unique(households, "household_id")

    priors = []
    for name, form in _USER_PRIORS.items():
        before, after = form.split("{}")
        labels = households.select(
            user_id=households.household_id.cast("int64"),
            label=ibis.literal(before) + households[name].nullif("") + after,
        )
        priors.append(Labels(name, labels, f"unknown {name}"))
    return priors
