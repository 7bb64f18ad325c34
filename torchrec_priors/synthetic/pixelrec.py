"""Writes the synthetic marketplace as files in the form of PixelRec's.

One CSV file contains the interactions, and another one the items. Users behave as in the
marketplace (`histories.py`), but there are no event types, and a user interacts with an item only
once. Histories are about as long as Pixel8M's: 18 interactions on average, and 50 or more for 6 %
of the users. Every leaf of the category tree has one tag.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from torchrec_priors.common.splitmix import mix, unit
from torchrec_priors.synthetic.catalogue import Catalogue, items_for
from torchrec_priors.synthetic.folder import Report, make_folder
from torchrec_priors.synthetic.histories import make_histories
from torchrec_priors.synthetic.users import Lengths, within

INTERACTIONS = "pixelrec_interaction/Pixel8M.csv"
ITEMS = "pixelrec_iteminfo/Pixel8M.csv"
INTERACTION_COLUMNS = ("item_id", "user_id", "timestamp")
COUNTS = (
    "view_number", "comment_number", "thumbup_number", "share_number", "coin_number",
    "favorite_number", "barrage_number",
)  # fmt: skip
ITEM_COLUMNS = ("item_id", *COUNTS, "title", "tag", "description")
UNLABELLED = "Miscellaneous"

_VERSION = 1  # raised when the same seed gives different files from before
# A third of these interactions are with items that the user has already seen, and are left out.
_LENGTHS = Lengths(median=15.0, spread=1.0, shortest=5, longest=2_000)
_USERS_AT_ONCE = 4_096
_UNLABELLED = 0.055  # share of items with the tag `UNLABELLED`
# Times in ms.
_EARLIER = 66_000_000_000  # subtracted from the times of the marketplace
_UNTIL = 1_656_100_000_000  # 24 June 2022


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Report,
    *,
    tags: Sequence[str],
    users_at_once: int = _USERS_AT_ONCE,
) -> None:
    """Writes a folder with exactly `rows` interactions.

    Nothing is written if the folder already contains the same log.

    Args:
        raw: The folder.
        rows: The number of interactions of all users.
        seed: The seed of all draws.
        report: Called with messages about the progress.
        tags: The tags that items may have, in addition to `UNLABELLED`.
        users_at_once: The number of users in memory at a time. The content does not depend on it.

    Raises:
        UserError: There are too few rows, the seed is out of range, or the folder contains
            something else.
    """

    def write(folder: Path) -> None:
        catalogue = Catalogue.make(items_for(rows), seed)
        for file in (INTERACTIONS, ITEMS):
            (folder / file).parent.mkdir()
        _write_items(folder / ITEMS, catalogue, tags, seed)
        _write_log(folder / INTERACTIONS, catalogue, rows, seed, users_at_once, report)

    make_folder(raw, "pixel8m", _VERSION, rows, seed, report, write)


def _write_log(
    file: Path, catalogue: Catalogue, rows: int, seed: int, users_at_once: int, report: Report
) -> None:
    types = (pa.string(), pa.string(), pa.int64())
    schema = pa.schema(dict(zip(INTERACTION_COLUMNS, types, strict=True)))

    # The header is written separately, as the writer would put it in quotes.
    plain = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
    done = 0
    with file.open("wb") as stream:
        stream.write((",".join(INTERACTION_COLUMNS) + "\n").encode())
        with arrow_csv.CSVWriter(stream, schema, write_options=plain) as log:
            for piece in _interactions(catalogue, rows, seed, users_at_once):
                log.write_table(piece.cast(schema))
                done += len(piece)
                report(f"generating {done:,} of {rows:,} rows")


def _interactions(
    catalogue: Catalogue, rows: int, seed: int, users_at_once: int
) -> Iterator[pa.Table]:
    """Yields tables of interactions, sorted by user and time, with `rows` rows in all."""
    first = 1
    left = rows
    items = pa.array([f"i{number}" for number in catalogue.item_id.tolist()])
    while left > 0:
        users = np.arange(first, first + users_at_once)
        lengths = _LENGTHS.of(seed, users)
        made = make_histories(catalogue, seed, users, lengths)

        # Only the first interaction of a user with an item is kept.
        user = np.repeat(users, lengths)
        _, new = np.unique(user * len(items) + made.position, return_index=True)
        new = np.sort(new)[:left]

        seconds = within(made.time - _EARLIER, lengths, _UNTIL) // 1000
        names = pa.compute.binary_join_element_wise("u", pa.array(user[new]).cast(pa.string()), "")
        columns = (items.take(pa.array(made.position[new])), names, seconds[new])
        yield pa.table(columns, INTERACTION_COLUMNS)

        first = first + users_at_once
        left = left - len(new)


def _write_items(file: Path, catalogue: Catalogue, tags: Sequence[str], seed: int) -> None:
    key = mix(catalogue.item_id.astype(np.uint64) ^ mix(np.array([seed], np.uint64)))

    # Neighbouring leaves share a tag if there are fewer tags than leaves.
    tag = np.array(tags, object)[catalogue.leaf * len(tags) // len(catalogue.tree)]
    tag[unit(key) < _UNLABELLED] = UNLABELLED
    views = (1e6 * unit(mix(key)) + 1e9 * catalogue.weight).astype(np.int64)
    titles = catalogue.titles()

    with file.open("w", encoding="utf8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(ITEM_COLUMNS)
        for position in np.argsort(catalogue.item_id).tolist():
            counts = [f"{views[position] // 4**level}.0" for level in range(len(COUNTS))]
            number = catalogue.item_id[position]

            # Titles have commas and quotes, and some fields are empty, to test CSV readers.
            title = f'{titles[position]}: "{tag[position]}"'
            about = "" if number % 4 == 0 else f"{title}, watched {views[position]:,} times"
            lines.writerow([f"i{number}", *counts, title, tag[position], about])
