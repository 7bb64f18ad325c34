"""Writes the synthetic marketplace as files in the form of MerRec's.

There is a folder for each month, with Parquet files that have one row for each event. Users behave
as in the marketplace (`histories.py`). Histories are as long as MerRec's: 230 events on average,
and more than 2,000 for 1.7 % of the users. A product is an item of the synthetic catalogue. The
column `item_id` identifies a listing of a product. All events of a user on a product are on the
same listing.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.splitmix import mix, unit
from torchrec_priors.synthetic.catalogue import Catalogue, items_for
from torchrec_priors.synthetic.folder import Report, make_folder
from torchrec_priors.synthetic.histories import make_histories
from torchrec_priors.synthetic.randomness import user_keys
from torchrec_priors.synthetic.shards import Shards
from torchrec_priors.synthetic.users import Lengths, chunks, pauses, within

EVENTS = ("item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp")
MONTHS = ("20230501", "20230601", "20230701", "20230801", "20230901", "20231001")
SCHEMA = pa.schema(
    {
        "user_id": pa.int64(),
        "sequence_id": pa.string(),
        "session_id": pa.string(),
        "stime": pa.timestamp("us"),
        "sequence_length": pa.int64(),
        "event_id": pa.string(),
        "item_id": pa.int64(),
        "product_id": pa.string(),
        "name": pa.string(),
        "price": pa.float64(),
        "c0_id": pa.int64(),
        "c0_name": pa.string(),
        "c1_id": pa.int64(),
        "c1_name": pa.string(),
        "c2_id": pa.int64(),
        "c2_name": pa.string(),
        "brand_id": pa.int64(),
        "brand_name": pa.string(),
        "item_condition_id": pa.int64(),
        "item_condition_name": pa.string(),
        "size_id": pa.int64(),
        "size_name": pa.string(),
        "color": pa.string(),
        "shipper_name": pa.string(),
        "shipper_id": pa.int64(),
    }
)

_VERSION = 1  # raised when the same seed gives different files from before
_LENGTHS = Lengths(median=60.0, spread=1.65, shortest=1, longest=20_000)
_USERS_AT_ONCE = 512
_ROWS_A_SHARD = 1_000_000
_EVENTS_A_LISTING = 15  # MerRec has 1.27 billion events on 83 million listings
_MOST_LISTINGS = 1 << 24  # the maximum number of listings of one product
_BRANDS = 400
_CONDITIONS = ("New", "Like new", "Good", "Fair", "Poor")
_SIZES = ("XS", "S", "M", "L", "XL", "One size")
_COLOURS = ("Black", "White", "Blue", "Red", "Pink", "Green", "Brown", "Gray")
_SHIPPERS = ("Buyer", "Seller")
# Times in ms.
_MINUTE = 60_000
_DAY = 86_400_000


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Report = lambda _: None,
    *,
    users_at_once: int = _USERS_AT_ONCE,
    rows_a_shard: int = _ROWS_A_SHARD,
) -> None:
    """Writes a folder with exactly `rows` events.

    Nothing is written if the folder already contains the same log.

    Args:
        raw: The folder.
        rows: The number of events of all users.
        seed: The seed of all draws.
        report: Called with messages about the progress.
        users_at_once: The number of users in memory at a time. The events do not depend on it.
        rows_a_shard: The approximate number of rows in a file.

    Raises:
        UserError: There are too few rows, the seed is out of range, or the folder contains
            something else.
    """

    def write(folder: Path) -> None:
        _write(folder, rows, seed, users_at_once, rows_a_shard, report)

    make_folder(raw, "merrec", _VERSION, rows, seed, report, write)


def _write(
    folder: Path, rows: int, seed: int, users_at_once: int, rows_a_shard: int, report: Report
) -> None:
    catalogue = Catalogue.make(items_for(rows), seed)
    products = _Products.of(catalogue, rows, seed)
    starts = np.array([_milliseconds(month) for month in MONTHS])

    done = 0
    with ExitStack() as stack:
        shards = [
            stack.enter_context(Shards(folder / month, SCHEMA, rows_a_shard)) for month in MONTHS
        ]
        # The files of all months are open together, as a user may have events in several months.
        for users, lengths in chunks(rows, seed, _LENGTHS, users_at_once):
            events, month = _events(catalogue, products, seed, users, lengths, starts)
            for number, files in enumerate(shards):
                files.write(events.filter(pa.array(month == number)))

            done += len(month)
            report(f"generating {done:,} of {rows:,} rows")


def _events(
    catalogue: Catalogue,
    products: "_Products",
    seed: int,
    users: np.ndarray,
    lengths: np.ndarray,
    starts: np.ndarray,
) -> tuple[pa.Table, np.ndarray]:
    """Returns the events of some users, sorted by user and time, and the month of each event.

    Args:
        catalogue: The catalogue.
        products: The products of the catalogue.
        seed: The seed of all draws.
        users: The numbers of the users.
        lengths: The number of events of each user.
        starts: The beginnings of the months, in ms since 1970.
    """
    made = make_histories(catalogue, seed, users, lengths)
    user = np.repeat(users, lengths)
    # Half an hour without an event ends a session; three days without one end a sequence.
    session = pauses(made.time, lengths, 30 * _MINUTE)
    sequence = pauses(made.time, lengths, 3 * _DAY)
    time = within(made.time, lengths, _milliseconds("20231101"))

    # The key depends only on the user and the product, so all events of a user on a product are on
    # the same listing.
    key = mix(np.repeat(user_keys(seed, users), lengths) ^ mix(made.position.astype(np.uint64)))
    listing = (unit(key) * products.listings[made.position]).astype(np.int64)
    condition = (unit(mix(key)) ** 1.5 * len(_CONDITIONS)).astype(np.int64)
    shipper = (unit(mix(mix(key))) * len(_SHIPPERS)).astype(np.int64)

    # `whole` is the number of each row's sequence, counted over all users.
    begins = np.concatenate([[True], (np.diff(sequence) != 0) | (np.diff(user) != 0)])
    whole = np.cumsum(begins) - 1
    session_id = mix(user.astype(np.uint64) << np.uint64(20) ^ session.astype(np.uint64))

    described = products.table.take(pa.array(made.position))
    columns = {
        "user_id": user,
        "sequence_id": pa.array(sequence + 1).cast(pa.string()),
        "session_id": pa.array(session_id).cast("string"),
        "stime": pa.array(time * 1000, pa.timestamp("us")),
        "sequence_length": np.bincount(whole)[whole],
        "event_id": pa.array(EVENTS).take(pa.array(made.event)),
        "item_id": catalogue.item_id[made.position] * _MOST_LISTINGS + listing,
        **{name: described[name] for name in described.column_names},
        "item_condition_id": condition + 1,
        "item_condition_name": pa.array(_CONDITIONS).take(condition),
        "shipper_id": shipper + 1,
        "shipper_name": pa.array(_SHIPPERS).take(shipper),
    }

    month = np.searchsorted(starts, time, side="right") - 1
    return pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA), month


@dataclass(frozen=True)
class _Products:
    """The products, in the order of the catalogue; all listings of a product have these values.

    Attributes:
        listings: The number of listings of each product.
        table: The columns of SCHEMA that describe a product.
    """

    listings: np.ndarray
    table: pa.Table

    @classmethod
    def of(cls, catalogue: Catalogue, rows: int, seed: int) -> "_Products":
        """Makes the products of a catalogue, for a log of `rows` rows."""
        number = catalogue.item_id
        leaf = catalogue.leaf
        key = mix(number.astype(np.uint64) ^ mix(np.array([seed], np.uint64)))
        brand = (unit(key) ** 2 * _BRANDS).astype(np.int64)
        unbranded = pa.array(unit(mix(key)) < 0.3)
        size = key.astype(np.int64) % len(_SIZES)
        colour = (unit(mix(mix(key))) * len(_COLOURS)).astype(np.int64)

        # Only clothes have sizes.
        has_sizes = [node.level1 in ("Women", "Men", "Kids") for node in catalogue.tree]
        clothes = np.array(has_sizes)[leaf]
        no_number = pa.scalar(None, pa.int64())
        columns = {
            "product_id": [f"p{product:09d}" for product in number.tolist()],
            "name": catalogue.titles(),
            "price": catalogue.price / 100,
            "brand_id": pa.compute.if_else(unbranded, no_number, pa.array(brand + 1)),
            "brand_name": pa.compute.if_else(unbranded, None, pa.array(_brands()).take(brand)),
            "size_id": pa.compute.if_else(pa.array(clothes), pa.array(size + 1), no_number),
            "size_name": pa.compute.if_else(pa.array(clothes), pa.array(_SIZES).take(size), None),
            "color": pa.array(_COLOURS).take(colour),
        }

        for level in range(3):
            names = [getattr(node, f"level{level + 1}") for node in catalogue.tree]
            ids = {name: index + 1 for index, name in enumerate(dict.fromkeys(names))}
            short_names = pa.array([name.split(" > ")[-1] for name in names])
            columns[f"c{level}_id"] = np.array([ids[name] for name in names])[leaf]
            columns[f"c{level}_name"] = short_names.take(pa.array(leaf))

        # Popular products have more listings.
        listings = np.clip(catalogue.weight * rows / _EVENTS_A_LISTING, 1, _MOST_LISTINGS)
        return cls(listings.astype(np.int64), pa.table(columns))


def _brands() -> list[str]:
    """Returns `_BRANDS` made-up names, which are all different."""
    first = (
        "Alder", "Birch", "Cedar", "Dune", "Ember", "Fjord", "Grove", "Heron", "Iris", "Juniper",
    )  # fmt: skip
    second = ("line", "wood", "mark", "field", "lane", "works", "stone", "bay", "house", "ford")
    third = ("", " & Co.", " Studio", " Original")
    return [f"{a}{b}{c}" for c in third for b in second for a in first]


def _milliseconds(day: str) -> int:
    return int(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp()) * 1000
