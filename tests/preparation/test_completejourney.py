"""The Complete Journey: made-up files in its schema against plain Python, and the real files."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_rows import assert_named_or_dropped
from prepared_log import item_ids, items, labels, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "completejourney"
PRODUCTS = 120
UNLISTED = (1001, 1002)
DEMOGRAPHICS = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)


def _transactions():
    """40 households with up to 5 baskets, each sorted by product number, as in the real file."""
    draw = random.Random(3)
    rows = []
    for basket in range(160):
        household = 1 + basket % 40
        time = datetime(2017, 1, 1, 8) + timedelta(hours=7 * basket)
        bought = sorted(draw.sample([*range(1, PRODUCTS + 1), *UNLISTED], draw.randint(3, 9)))
        for product in bought:
            quantity = 0 if draw.random() < 0.05 else draw.randint(1, 3)
            rows.append((household, 7, 9000 + basket, product, quantity, time))
    # Household 1 has only its first basket, so its history is too short to be kept.
    return [row for row in rows if row[0] != 1 or row[2] == 9000]


def _products():
    about = []
    for product in range(1, PRODUCTS + 31):
        missing = product % 11 == 0
        about.append(
            {
                "product_id": product,
                "manufacturer_id": 2,
                "department": ("GROCERY", "PRODUCE", "MEAT")[product % 3],
                "brand": "Private" if product % 4 == 0 else "National",
                "product_category": None if missing else f"CATEGORY {product % 8}",
                "product_type": None if missing else f"TYPE {product % 16}",
                "package_size": "22 LB" if product % 2 else None,
            }
        )
    return about


def _households():
    """Only every third household has demographics; some values are missing."""
    about = []
    for household in range(3, 41, 3):
        values = (
            "45-54",
            "50-74K",
            None if household % 2 else "Homeowner",
            "Married",
            str(1 + household % 4),
            "1 Adult Kids",
            "3+" if household % 2 else "0",
        )
        about.append({"household_id": household, **dict(zip(DEMOGRAPHICS, values, strict=True))})
    return about


def _write(folder, rows):
    names = (
        "household_id",
        "store_id",
        "basket_id",
        "product_id",
        "quantity",
        "transaction_timestamp",
    )
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["transaction_timestamp"] = pa.array(
        columns["transaction_timestamp"], pa.timestamp("ns")
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "transactions.parquet")
    pq.write_table(pa.Table.from_pylist(_products()), folder / "products.parquet")
    pq.write_table(pa.Table.from_pylist(_households()), folder / "demographics.parquet")


@pytest.fixture
def raw(tmp_path):
    _write(tmp_path / "raw", _transactions())
    return tmp_path / "raw"


def _ms(time):
    return int(time.replace(tzinfo=UTC).timestamp() * 1000)


def _purchases(rows):
    """household -> [(ms, product)] of quantities above 0, without repeats, in order of time and id."""
    found = {}
    for household, _, _, product, quantity, time in rows:
        if quantity:
            found.setdefault(household, set()).add((_ms(time), product))
    return {household: sorted(own) for household, own in found.items()}


def _prepare(raw, tmp_path, *options, **settings):
    return prepare(Settings("completejourney", raw, options=options, **settings), tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize("catalogue", ["bought", "all"])
def test_prepared_is_what_the_files_say(raw, catalogue, tmp_path):
    made = _prepare(raw, tmp_path, f"catalogue={catalogue}")
    rows = _transactions()
    every = _purchases(rows)
    expected = {household: own for household, own in every.items() if len(own) > 16}
    assert len(expected) < len(every)
    found = sequences(tmp_path / "data")
    assert {
        household: sorted((time, item) for item, time, _ in own) for household, own in found.items()
    } == expected
    assert all(
        [time for _, time, _ in own] == sorted(time for _, time, _ in own) for own in found.values()
    )

    zero = sum(row[4] == 0 for row in rows)
    assert zero > 0
    dropped = made.counts["dropped"]
    assert dropped["transactions.parquet: quantity 0"] == zero
    assert dropped["users of at most twice the horizon"] == len(every) - len(expected)
    assert "duplicate interactions" not in dropped
    # The raw files are in order of time, so no row is moved to another basket.
    assert made.counts["repaired"] == {"interactions out of order in time": 0}

    bought = {item for own in found.values() for item, *_ in own}
    listed = {row["product_id"]: row for row in _products()}
    assert set(UNLISTED) <= bought
    about = items(tmp_path / "data")
    # `all` also has what only households with short histories have bought.
    anyone = {product for own in every.values() for _, product in own}
    assert about.keys() == (bought if catalogue == "bought" else anyone | listed.keys())
    for item, own in about.items():
        row = listed.get(item, {})
        for name in ("department", "brand", "product_category", "product_type", "package_size"):
            assert own[name] == row.get(name)
    assert about[1]["title"] == "TYPE 1 22 LB"
    assert about[2]["title"] == "TYPE 2"
    assert about[11]["title"] == "product 11 22 LB"
    assert about[UNLISTED[0]]["title"] == f"product {UNLISTED[0]}"

    for prior in ("department", "product_category", "product_type", "brand"):
        assert labels(tmp_path / "data", prior) == {
            item: {listed.get(item, {}).get(prior) or f"no {prior}"} for item in about
        }
    assert made.category_prior == "product_category"


@pytest.mark.slow
def test_households_without_demographics_are_the_remainder(raw, tmp_path):
    made = _prepare(raw, tmp_path)
    known = {row["household_id"]: row for row in _households()}
    kept = sequences(tmp_path / "data").keys()
    assert any(household in known for household in kept)
    forms = {"household_size": "household of {}", "kids_count": "kids: {}"}
    for prior in DEMOGRAPHICS:
        expected = {}
        for household in kept:
            value = known.get(household, {}).get(prior)
            name = forms.get(prior, "{}").format(value) if value else f"unknown {prior}"
            expected[household] = {name}
        assert labels(tmp_path / "data", prior) == expected
    assert [prior.name for prior in made.priors if prior.kind == "user"] == list(DEMOGRAPHICS)


@pytest.mark.slow
def test_repeats_within_a_basket_count_once_and_are_reported(tmp_path):
    rows = _transactions()
    twice = [row for row in rows if row[0] == 5 and row[4] > 0][:4]
    _write(tmp_path / "raw", rows + twice)
    made = _prepare(tmp_path / "raw", tmp_path)
    assert made.counts["dropped"]["duplicate interactions"] == 4
    assert len(sequences(tmp_path / "data")[5]) == len(_purchases(rows)[5])


def _rising(folder):
    """The share of neighbours of one time in which the second has the larger original id."""
    rises = []
    for own in sequences(folder).values():
        item, time = (np.array([row[column] for row in own]) for column in (0, 1))
        rises.append((np.diff(item) > 0)[np.diff(time) == 0])
    return np.concatenate(rises).mean()


@pytest.mark.slow
def test_products_of_a_basket_are_not_in_the_order_of_their_numbers(raw, tmp_path):
    _prepare(raw, tmp_path)
    assert 0.4 < _rising(tmp_path / "data") < 0.6

    # The order of the same products differs from basket to basket.
    basket = range(1, 9)
    rows = [
        (household, 7, day, product, 1, datetime(2017, 1, 1) + timedelta(days=day, hours=household))
        for household in range(1, 11)
        for day in range(10)
        for product in basket
    ]
    _write(tmp_path / "same", sorted(rows, key=lambda row: (row[5], row[3])))
    prepare(Settings("completejourney", tmp_path / "same"), tmp_path / "again")
    orders = Counter(
        tuple(item for item, *_ in own[at : at + 8])
        for own in sequences(tmp_path / "again").values()
        for at in range(0, 80, 8)
    )
    assert len(orders) > 90
    assert all(sorted(order) == list(basket) for order in orders)
    firsts = Counter(order[0] for order in orders)
    assert firsts.keys() == set(basket)


@pytest.mark.slow
def test_the_order_does_not_depend_on_the_order_of_rows(raw, tmp_path):
    _prepare(raw, tmp_path)
    rows = _transactions()
    random.Random(1).shuffle(rows)
    _write(tmp_path / "mixed", rows)
    prepare(Settings("completejourney", tmp_path / "mixed"), tmp_path / "other")
    assert sequences(tmp_path / "other") == sequences(tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (0, None, "household_id must have a value"),
        (3, None, "product_id must have a value"),
        (4, None, "quantity must have a value"),
        (4, -1, "quantity must not be negative: -1"),
        (5, None, "transaction_timestamp must have a value"),
        (5, datetime(1969, 12, 31), "transaction_timestamp must not be before 1970"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(column, value, says, tmp_path):
    rows = _transactions()
    rows[6] = (*rows[6][:column], value, *rows[6][column + 1 :])
    _write(tmp_path / "raw", rows)
    prepared = partial(_prepare, tmp_path / "raw", tmp_path)
    assert_named_or_dropped(prepared, "transactions.parquet", "row 7", says)


@pytest.mark.parametrize(
    ("file", "column"), [("products", "product_id"), ("demographics", "household_id")]
)
def test_what_must_not_repeat_is_refused(raw, file, column, tmp_path):
    table = pq.read_table(raw / f"{file}.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(4, 1)]), raw / f"{file}.parquet")
    with pytest.raises(
        UserError, match=rf"{file}\.parquet, row {len(table) + 1}: the same {column} twice"
    ):
        _prepare(raw, tmp_path)


@pytest.mark.parametrize("file", ["transactions", "products", "demographics"])
def test_a_missing_file_is_named(raw, file, tmp_path):
    (raw / f"{file}.parquet").unlink()
    with pytest.raises(UserError, match=rf"{file}\.parquet"):
        _prepare(raw, tmp_path)


@pytest.mark.slow
def test_the_published_files_have_their_size(tmp_path):
    if not (REAL / "transactions.parquet").is_file():
        pytest.skip(f"the Complete Journey is not at {REAL}")
    made = prepare(Settings("completejourney", REAL), tmp_path / "data")
    assert made.counts["users"] == 2_386
    assert made.counts["items"] == 68_221
    assert made.counts["interactions"] == 1_459_741
    assert made.counts["dropped"] == {
        "users of at most twice the horizon": 83,
        "their interactions": 687,
        "duplicate interactions": 10,
        "transactions.parquet: quantity 0": 8_869,
    }
    groups = {
        prior.name: dict(zip(prior.groups, prior.sizes, strict=True)) for prior in made.priors
    }
    assert len(groups["product_category"]) == 303
    assert groups["brand"] == {"National": 57_777, "Private": 10_441, "no brand": 3}
    assert groups["age"]["unknown age"] == 1_585
    assert 0.49 < _rising(tmp_path / "data") < 0.51
    assert "BANANAS 40 LB" in {row["title"] for row in items(tmp_path / "data").values()}
    assert len(item_ids(tmp_path / "data")) == 68_221
