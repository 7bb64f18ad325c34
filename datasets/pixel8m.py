"""Pixel8M of PixelRec (Westlake University; non-commercial research and education).

The log contains interactions with short videos from 2012 to 2022. There are two CSV files: one with
interactions (item_id, user_id, timestamp in seconds), and one with item information (item_id, seven
counts, title, tag, description). They may be anywhere in the folder and are recognised by their
headers. The data card, `pixel8m.md`, lists all columns and says how to get the files. Expected: 8.9
million users, 407,082 items, 158 million interactions; with the default options 561,737 users,
398,261 items and 57 million interactions (the paper's Table 4).

Priors: `category` (eight groups, several for an item; the category prior) and `tag` (111 groups).
The file `pixel8m_categories.csv` in the same folder maps tags to categories. The tag
`Miscellaneous` is mapped to all eight categories, as in the paper. Items with a tag that the file
does not list have no category.
Source: https://github.com/westlake-repl/PixelRec; Yu Cheng et al., SDM 2024, arXiv:2309.06789.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.long_histories import at_least
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.raw import BadRows, found_in, read_csv
from torchrec_priors.synthetic import pixelrec
from torchrec_priors.synthetic.pixelrec import COUNTS, INTERACTION_COLUMNS, UNLABELLED

__all__ = ["Options", "generate", "load"]

_CATEGORIES = Path(__file__).with_name("pixel8m_categories.csv")
_LOG = {"item_id": pa.string(), "user_id": pa.string(), "timestamp": pa.int64()}
_NUMBER_OR_NOTHING = r"^([0-9]+(\.[0-9]*)?)?$"


@dataclass(frozen=True)
class Options:
    """The options that users set with `--option`.

    Attributes:
        min_history: users with fewer interactions are left out. The default is the paper's filter
            for its experiments with HSTU. (Its filter for HLLM, another model, is 20.)
        categories: a CSV file with the header `tag,category`. A tag may be in several rows.
        catalogue: the items in the catalogue: those that the kept users have seen (`met`), as in
            the paper, or all (`all`).
    """

    min_history: int = 50
    categories: Path = _CATEGORIES
    catalogue: Literal["met", "all"] = "met"


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    log_file, items_file = _files(raw)
    mapping = _mapping(options.categories)
    log = engine.read_csv([log_file], _LOG, bad_rows)
    items = _items(items_file, bad_rows, engine)

    log = engine.keep_all_valid(log, _rules(log, items, items_file), bad_rows)
    log = at_least(log, options.min_history, engine, bad_rows)
    if options.catalogue == "met":
        items = items.semi_join(log, "item_id")

    # A tag may have several categories. If it has none, its items are in the remainder group.
    labels = items.inner_join(ibis.memtable(mapping), "tag").select("item_id", label="category")
    tags = items.filter(items.tag != "").select("item_id", label="tag")
    counts = {name: items[name].nullif("").cast("float64") for name in COUNTS}
    return Corpus(
        name="pixel8m",
        interactions=log.select("user_id", "item_id", "order", timestamp=log.timestamp * 1000),
        items=items.select("item_id", "title", "tag", **counts),
        category_prior="category",
        default_horizon=8,
        item_priors=[Labels("category", labels, "no category"), Labels("tag", tags, "no tag")],
        min_history=options.min_history,
        items_met=options.catalogue == "met",
    )


def generate(
    raw: Path, rows: int, seed: int, report: Callable[[str], None] = lambda _: None
) -> None:
    """Writes synthetic files, which use the tags of the mapping file.

    `generate` in `torchrec_priors/synthetic/pixelrec.py` describes the files.
    """
    tags = [tag for tag in _mapping(_CATEGORIES)["tag"].unique().to_pylist() if tag != UNLABELLED]
    pixelrec.generate(raw, rows, seed, report, tags=tags)


def _files(raw: Path) -> tuple[Path, Path]:
    """Returns the file of interactions and the file of item information, found by headers."""
    if not raw.is_dir():
        raise UserError(f"--raw: there is no folder '{raw}'")

    headers = {file: _header(file) for file in sorted(raw.rglob("*.csv"))}
    logs = [file for file, header in headers.items() if set(INTERACTION_COLUMNS) <= header]
    items = [file for file, header in headers.items() if {"item_id", "title", "tag"} <= header]
    # There must be exactly one file of each kind.
    for files, columns in (
        (logs, ", ".join(INTERACTION_COLUMNS)),
        (items, "item_id, title, tag and counts"),
    ):
        if len(files) != 1:
            names = ", ".join(str(file.relative_to(raw)) for file in files)
            content = f"found {names}" if names else found_in(raw)
            raise UserError(
                f"--raw: '{raw}' must hold one CSV file with the columns {columns}; {content}"
            )
    return logs[0], items[0]


def _header(file: Path) -> set[str]:
    # The folder may also hold other CSV files, in any encoding.
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return set(next(csv.reader(lines), []))


def _mapping(file: Path) -> pa.Table:
    """Reads the table of (tag, category), without repeated pairs.

    Raises:
        UserError: the file cannot be read (see `read_csv`), has no rows, or has an empty tag or
            category.
    """
    rows = read_csv(
        file, {"tag": pa.string(), "category": pa.string()}, BadRows(remedy="mend the file")
    )
    # If there are no rows, the message names the line after the header.
    empty = pc.or_(pc.equal(rows["tag"], ""), pc.equal(rows["category"], ""))
    if not len(rows) or pc.any(empty).as_py():
        line = rows["line"].filter(empty)[0].as_py() if len(rows) else 2
        raise UserError(f"{file}, line {line}: a tag and a category are expected")
    return rows.select(["tag", "category"]).group_by(["tag", "category"]).aggregate([])


def _items(file: Path, bad_rows: BadRows, engine: Engine) -> ir.Table:
    """Returns the item information without descriptions. The counts are still texts."""
    # Counts may be empty, and are written like "12.0". Only texts can represent both.
    columns = dict.fromkeys(("item_id", *COUNTS, "title", "tag"), pa.string())
    items = engine.read_csv([file], columns, bad_rows)

    rules = [Rule("item_id", "must have a value", items.item_id != "")]
    for name in COUNTS:
        is_number = items[name].re_search(_NUMBER_OR_NOTHING)
        rules.append(Rule(name, "must be a number or empty", is_number))
    items = engine.keep_all_valid(items, rules, bad_rows)

    engine.require_unique(items, "item_id")
    return items


def _rules(log: ir.Table, items: ir.Table, items_file: Path) -> list[Rule]:
    """Returns the rules for interactions."""
    # Larger times would overflow when they are converted to milliseconds.
    is_time = (log.timestamp >= 0) & (log.timestamp < 2**53)
    listed_in = f"{items_file.name} of {items_file.parent.name}"
    return [
        Rule("user_id", "must have a value", log.user_id != ""),
        Rule("item_id", f"must be listed in {listed_in}", items),
        Rule("timestamp", "must be seconds since 1970", is_time),
    ]
