"""Pixel8M of PixelRec (Westlake University; non-commercial research and education): short videos, 2012 to 2022.

Files: a CSV of interactions (item_id, user_id, timestamp in seconds) and one of item information (item_id, seven
counts, title, tag, description), found by their headers wherever they lie in the folder. The data card, `pixel8m.md`,
has all columns, and how to get them. Expected: 8.9 million users, 407,082 items, 158 million interactions; with options
as they are 561,737 users, 398,261 items and 57 million interactions (the paper's Table 4).

Priors: `category` (eight, several an item; the category prior) by a mapping file, `pixel8m_categories.csv` beside this
one, whose tag `Miscellaneous` is in all eight as in the paper; items whose tag it does not list have no category. `tag`
(111). Source: https://github.com/westlake-repl/PixelRec; Yu Cheng et al., SDM 2024, arXiv:2309.06789.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
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
_NUMBER_OR_NOTHING = r"^([0-9]+(\.[0-9]*)?)?$"


@dataclass(frozen=True)
class Options:
    """Attributes:
    min_history: users of fewer interactions are left out; the paper's filter for HSTU (20 for HLLM).
    categories: CSV with a header, `tag` and `category`; a tag may stand in several rows.
    catalogue: the items that the users left have met, as in the paper, or all there are.
    """

    min_history: int = 50
    categories: Path = _CATEGORIES
    catalogue: Literal["met", "all"] = "met"


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    log_file, items_file = _files(raw)
    mapping = _mapping(options.categories)
    text = pa.string()
    log = engine.read_csv(
        [log_file], {"item_id": text, "user_id": text, "timestamp": pa.int64()}, bad_rows
    )
    about_items = dict.fromkeys(("item_id", *COUNTS, "title", "tag"), text)
    items = engine.read_csv([items_file], about_items, bad_rows)
    item_rules = [
        Rule("item_id", "must have a value", items.item_id != ""),
        *(
            Rule(name, "must be a number or empty", items[name].re_search(_NUMBER_OR_NOTHING))
            for name in COUNTS
        ),
    ]
    items = engine.keep_all_valid(items, item_rules, bad_rows)
    engine.require_unique(items, "item_id")
    rules = [
        Rule("user_id", "must have a value", log.user_id != ""),
        Rule("item_id", f"must be listed in {items_file.name} of {items_file.parent.name}", items),
        Rule(
            "timestamp",
            "must be seconds since 1970",
            (log.timestamp >= 0) & (log.timestamp < 2**53),
        ),
    ]
    log = at_least(
        engine.keep_all_valid(log, rules, bad_rows), options.min_history, engine, bad_rows
    )
    if options.catalogue == "met":
        items = items.semi_join(log, "item_id")
    labels = items.inner_join(ibis.memtable(mapping), "tag").select("item_id", label="category")
    tags = items.filter(items.tag != "").select("item_id", label="tag")
    return Corpus(
        name="pixel8m",
        interactions=log.select("user_id", "item_id", "order", timestamp=log.timestamp * 1000),
        items=items.select(
            "item_id",
            "title",
            "tag",
            **{name: items[name].nullif("").cast("float64") for name in COUNTS},
        ),
        category_prior="category",
        default_horizon=8,
        item_priors=[Labels("category", labels, "no category"), Labels("tag", tags, "no tag")],
        min_history=options.min_history,
        items_met=options.catalogue == "met",
    )


def generate(
    raw: Path, rows: int, seed: int, report: Callable[[str], None] = lambda _: None
) -> None:
    """As `generate` of `torchrec_priors/synthetic/pixelrec.py`, with the tags of the mapping file."""
    tags = [tag for tag in _mapping(_CATEGORIES)["tag"].unique().to_pylist() if tag != UNLABELLED]
    pixelrec.generate(raw, rows, seed, report, tags=tags)


def _files(raw: Path) -> tuple[Path, Path]:
    """(interactions, item information): the files with their headers."""
    if not raw.is_dir():
        raise UserError(f"--raw: there is no folder '{raw}'")
    headers = {file: _header(file) for file in sorted(raw.rglob("*.csv"))}
    logs = [file for file, header in headers.items() if set(INTERACTION_COLUMNS) <= header]
    items = [file for file, header in headers.items() if {"item_id", "title", "tag"} <= header]
    for files, what in (
        (logs, ", ".join(INTERACTION_COLUMNS)),
        (items, "item_id, title, tag and counts"),
    ):
        if len(files) != 1:
            found = ", ".join(str(file.relative_to(raw)) for file in files)
            said = f"found {found}" if found else found_in(raw)
            raise UserError(
                f"--raw: '{raw}' must hold one CSV file with the columns {what}; {said}"
            )
    return logs[0], items[0]


def _header(file: Path) -> set[str]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return set(next(csv.reader(lines), []))


def _mapping(file: Path) -> pa.Table:
    """(tag, category), each pair once.

    Raises:
        UserError: as `read_csv`; an empty tag or category.
    """
    rows = read_csv(
        file, {"tag": pa.string(), "category": pa.string()}, BadRows(remedy="mend the file")
    )
    empty = pc.or_(pc.equal(rows["tag"], ""), pc.equal(rows["category"], ""))
    if not len(rows) or pc.any(empty).as_py():
        line = rows["line"].filter(empty)[0].as_py() if len(rows) else 2
        raise UserError(f"{file}, line {line}: a tag and a category are expected")
    return rows.select(["tag", "category"]).group_by(["tag", "category"]).aggregate([])
