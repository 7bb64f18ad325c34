"""Clicks on the news portal G1 of Globo.com (research use), 1 to 17 October 2017.

The clicks are in files for each hour, such as `clicks_hour_000.csv`, or in one file
`clicks.parquet` with the same columns. These are read: user_id, click_article_id, click_timestamp
(milliseconds), click_deviceGroup, click_country, click_region. The published data have no titles
and no names of categories, only numbers.

The categories of articles are in the published `articles_metadata.csv`, or in
`article_categories.csv`, which has a column `how`: the category is `listed` (published),
`bracketed` (inferred) or `unknown`. The data card, `globo.md`, lists all columns, and says how
categories were inferred and how to get the files.

Expected: 322,897 users, of which 45,102 have more than 16 clicks, 46,033 articles, 2,988,181
clicks.

Priors of articles: `category` (the category prior) and `section` (a group for each of the
categories with most articles). Priors of users: `device`, `country` and `region` (for each, the
most frequent value in the user's clicks).
Source: https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom;
Gabriel de Souza P. Moreira et al., DLRS 2018 and arXiv:1904.10367.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.label_counts import largest, most_frequent
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.raw import BadRows, found_in
from torchrec_priors.preparation.raw.published import WHOLE, found_types, there

CLICKS = "clicks.parquet"
HOURS = "clicks_hour_*.csv"
PUBLISHED = "articles_metadata.csv"
INFERRED = "article_categories.csv"

_USER_PRIORS = {
    "device": "click_deviceGroup",
    "country": "click_country",
    "region": "click_region",
}
_NEEDED = ("user_id", "click_article_id", "click_timestamp")
_CLICK_COLUMNS = (*_NEEDED, *_USER_PRIORS.values())
_HOW = ("listed", "bracketed", "unknown")
# Numbers may be written like "230.0".
_NUMBER_OR_NOTHING = r"^([0-9]+(\.[0-9]*)?)?$"


@dataclass(frozen=True)
class Options:
    """The options that users set with `--option`.

    Attributes:
        categories: the categories that are used if the file has a column `how`: only published
            ones (`listed`), or inferred ones, too (`bracketed`).
        sections: the number of categories that are groups of the prior `section`. There are two
            more groups, "other categories" and "unknown section".
        catalogue: the articles in the catalogue: all that have a click in the files (`clicked`), or
            those that the kept users have read (`read`).
    """

    categories: Literal["bracketed", "listed"] = "bracketed"
    sections: int = 40
    catalogue: Literal["clicked", "read"] = "clicked"

    def __post_init__(self) -> None:
        """Raises UserError if a number is out of range."""
        if self.sections < 1:
            raise UserError(f"--option: sections must be at least 1, not {self.sections}")


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    if not raw.is_dir():
        raise UserError(f"--raw: there is no folder '{raw}'")

    articles_file = _articles_file(raw)
    articles = _articles(articles_file, bad_rows, engine)
    log = _clicks(raw, bad_rows, engine)
    rules = [
        *there(log, _NEEDED),
        Rule("click_timestamp", "must not be negative", log.click_timestamp >= 0),
        Rule(
            "click_article_id",
            f"must be listed in {articles_file.name}",
            articles.select(click_article_id="article_id"),
        ),
    ]
    log = engine.keep_all_valid(log, rules, bad_rows)

    clicked = log.select(article_id=log.click_article_id.cast("int64")).distinct()
    articles = engine.materialise("corpus_articles", articles.semi_join(clicked, "article_id"))
    categories = _categories(articles, options)
    sections = largest(categories, options.sections, "other categories")
    return Corpus(
        name="globo",
        interactions=log.select(
            "order",
            user_id=log.user_id.cast("int64"),
            item_id=log.click_article_id.cast("int64"),
            timestamp=log.click_timestamp.cast("int64"),
        ),
        items=articles.select(
            "category_id",
            "how",
            "created_at_ts",
            "words_count",
            item_id="article_id",
            title=ibis.literal("article ") + articles.article_id.cast("string"),
        ),
        category_prior="category",
        default_horizon=8,
        item_priors=[
            Labels("category", categories, "unknown category"),
            Labels("section", sections, "unknown section"),
        ],
        user_priors=_user_priors(log),
        user_group="region",
        items_met=options.catalogue == "read",
    )


def _articles_file(raw: Path) -> Path:
    """Returns the file with the categories. The published one is preferred."""
    for name in (PUBLISHED, INFERRED):
        files = sorted(raw.rglob(name))
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(raw)) for file in files)
            raise UserError(f"--raw: '{raw}' must hold one {name}; found {names}")
        if files:
            return files[0]
    raise UserError(f"--raw: '{raw}' holds neither {PUBLISHED} nor {INFERRED} ({found_in(raw)})")


def _articles(file: Path, bad_rows: BadRows, engine: Engine) -> ir.Table:
    """Returns the articles: article_id, category_id, how, created_at_ts (ms), words_count."""
    # Only texts can represent numbers that are missing.
    columns = {
        "article_id": pa.int64(),
        "category_id": pa.int64(),
        "created_at_ts": pa.string(),
        "words_count": pa.string(),
    }
    if file.name == INFERRED:
        columns["how"] = pa.string()
    articles = engine.read_csv([file], columns, bad_rows)
    if file.name == PUBLISHED:
        articles = articles.mutate(how=ibis.literal("listed"))

    known = (articles.how == "unknown") | (articles.category_id >= 0)
    rules = [
        Rule("how", f"must be one of {', '.join(_HOW)}", articles.how.isin(_HOW)),
        Rule("category_id", "must not be negative", known),
    ]
    for name in ("created_at_ts", "words_count"):
        is_number = articles[name].re_search(_NUMBER_OR_NOTHING)
        rules.append(Rule(name, "must be a number or empty", is_number))
    articles = engine.keep_all_valid(articles, rules, bad_rows)

    engine.require_unique(articles, "article_id")
    return articles.select(
        "article_id",
        "category_id",
        "how",
        # A float64 is exact up to 2^53, far above any time in milliseconds.
        created_at_ts=articles.created_at_ts.nullif("").cast("float64").cast("int64"),
        words_count=articles.words_count.nullif("").cast("float64"),
    )


def _clicks(raw: Path, bad_rows: BadRows, engine: Engine) -> ir.Table:
    """Returns the clicks of the files for each hour, or of the one Parquet file."""
    hours = sorted(raw.rglob(HOURS))
    whole = sorted(raw.rglob(CLICKS))
    if len(whole) > 1 or (whole and hours):
        names = ", ".join(str(file.relative_to(raw)) for file in (*whole, *hours[:1]))
        raise UserError(f"--raw: '{raw}' must hold the clicks once; found {names}")

    if whole:
        columns = dict.fromkeys(_CLICK_COLUMNS, WHOLE)
        return engine.read_parquet(whole, found_types(whole[0], columns), bad_rows)
    if hours:
        return engine.read_csv(hours, dict.fromkeys(_CLICK_COLUMNS, pa.int64()), bad_rows)
    raise UserError(f"--raw: '{raw}' holds neither {CLICKS} nor {HOURS} ({found_in(raw)})")


def _categories(articles: ir.Table, options: Options) -> ir.Table:
    """Returns a table of (item_id, label) with the categories that the options allow."""
    allowed = ("listed",) if options.categories == "listed" else ("listed", "bracketed")
    labelled = articles.filter(articles.how.isin(allowed))
    return labelled.select(
        item_id="article_id",
        label=ibis.literal("category ") + labelled.category_id.cast("string"),
    )


def _user_priors(log: ir.Table) -> list[Labels]:
    """Returns the priors of users, computed from all of their clicks."""
    # The publisher's numbers have no reliable names, so the numbers are the names.
    return [
        Labels(
            name,
            most_frequent(log, ibis.literal(f"{name} ") + log[column].cast("string")),
            f"unknown {name}",
        )
        for name, column in _USER_PRIORS.items()
    ]
