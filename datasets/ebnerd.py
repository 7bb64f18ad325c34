"""EB-NeRD (Ekstra Bladet; research use): clicks on news articles, 27 April to 8 June 2023.

Files of one bundle (demo, small or large): `articles.parquet`, and `behaviors.parquet` and
`history.parquet` in the folders `train` and `validation`. These columns are read: article_id,
title, subtitle, category_str, topics, premium of articles; user_id, article_id_fixed,
impression_time_fixed of histories; user_id, impression_time, article_ids_clicked, device_type,
gender, age, is_subscriber of behaviours. The data card, `ebnerd.md`, lists all columns and says how
to get the files. Expected for `large` with the default options: 44,968 users, 25,216 articles and
30 million interactions (the paper's Table 4).

An interaction is a click. The files list most clicks two or three times: the two histories overlap,
and the second one has those of the first week of impressions. So a (user, article, time) of the
histories counts once, and a click of the impressions counts if it is later than all clicks of the
user in the histories.

Priors: `category` (the category prior), `topic` (several for an article), `community` (of articles
read by the same users), and of users `subscriber`, `device`, `age`, `gender` (the most frequent
value in a user's impressions) and `crowd` (communities of users).
Source: https://recsys.eb.dk; Johannes Kruse et al., RecSys Challenge 2024, arXiv:2410.03432.
"""

from collections.abc import Mapping
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
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.raw import BadRows, folder_with, require_files
from torchrec_priors.preparation.raw.published import (
    TEXT,
    TIME,
    TRUTH,
    WHOLE,
    Kind,
    found_types,
    lists_of,
    milliseconds,
    since_1970,
    there,
)
from torchrec_priors.synthetic.ebnerd import ARTICLES, BEHAVIOURS, HISTORY, generate

__all__ = ["Options", "generate", "load"]

_ARTICLE: Mapping[str, Kind] = {
    "article_id": WHOLE,
    "title": TEXT,
    "subtitle": TEXT,
    "category_str": TEXT,
    "topics": lists_of(TEXT),
    "premium": TRUTH,
}
_READ: Mapping[str, Kind] = {
    "user_id": WHOLE,
    "article_id_fixed": lists_of(WHOLE),
    "impression_time_fixed": lists_of(TIME),
}
_SHOWN: Mapping[str, Kind] = {
    "user_id": WHOLE,
    "impression_time": TIME,
    "article_ids_clicked": lists_of(WHOLE),
    "device_type": WHOLE,
    "gender": WHOLE,
    "age": WHOLE,
    "is_subscriber": TRUTH,
}
_DEVICES = ((1, "desktop"), (2, "mobile"), (3, "tablet"))
_GENDERS = ((0, "male"), (1, "female"))
_PLACES = 1 << 16  # positions in a list


@dataclass(frozen=True)
class Options:
    """Options of `--option`.

    Attributes:
        min_history: Users with fewer clicks are left out. The default is the paper's filter.
        catalogue: `read` for the articles that the kept users have read, as in the paper, or `all`.
        communities: Groups of articles of the prior `community`; 0 for no such prior.
        crowds: Groups of users of the prior `crowd`; 0 for no such prior.
        last: Training clicks of a user that join articles, the latest. The paper's value is 1000,
            which gives many pairs.
        neighbours: Number of strongest neighbours that each article and each user keeps.
    """

    min_history: int = 512
    catalogue: Literal["read", "all"] = "read"
    communities: int = 11
    crowds: int = 9
    last: int = 50
    neighbours: int = 20


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    about, histories, behaviours = _files(raw)
    articles = engine.read_parquet([about], found_types(about, _ARTICLE), bad_rows)
    articles = engine.keep_all_valid(articles, there(articles, ["article_id"]), bad_rows)
    engine.require_unique(articles, "article_id")

    shown = engine.read_parquet(behaviours, found_types(behaviours[0], _SHOWN), bad_rows)
    shown = _checked(shown, engine, bad_rows)
    read = engine.read_parquet(histories, found_types(histories[0], _READ), bad_rows)
    read = _checked(read, engine, bad_rows)

    known = articles.select("article_id")
    log = _clicks(
        _clicks_of_histories(read, known, engine, bad_rows),
        _clicks_of_impressions(shown, known, engine, bad_rows),
    )

    # Clicks are computed once: counting long histories reads them, too.
    log = at_least(engine.materialise("corpus_clicks", log), options.min_history, engine, bad_rows)

    # Articles that no kept user has read are in the catalogue only if that is requested.
    items = articles.mutate(item_id=articles.article_id.cast("int64"))
    if options.catalogue == "read":
        items = items.semi_join(log, "item_id")
    topics = items.select("item_id", label=items.topics.unnest())

    return Corpus(
        name="ebnerd",
        interactions=log,
        items=items.select(
            "item_id", "subtitle", "category_str", "premium", title=items.title.fill_null("")
        ),
        category_prior="category",
        default_horizon=8,
        item_priors=[
            Labels("category", items.select("item_id", label="category_str"), "no category"),
            Labels("topic", topics, "no topic"),
        ],
        user_priors=_user_priors(shown),
        user_group="subscriber",
        computed_priors=_computed_priors(options),
        min_history=options.min_history,
        items_met=options.catalogue == "read",
    )


def _files(raw: Path) -> tuple[Path, list[Path], list[Path]]:
    """Returns the files (articles, histories, behaviours) of the existing splits.

    The test split has no clicks and is not read.
    """
    raw = folder_with(raw, [ARTICLES])
    require_files(raw, [ARTICLES])

    # One of the splits is enough.
    splits = [raw / split for split in ("train", "validation") if (raw / split).is_dir()]
    if not splits:
        raise UserError(
            f"--raw: '{raw}' holds no folder train or validation, "
            f"each with {HISTORY} and {BEHAVIOURS}"
        )
    for split in splits:
        require_files(split, [HISTORY, BEHAVIOURS])

    return (
        raw / ARTICLES,
        [split / HISTORY for split in splits],
        [split / BEHAVIOURS for split in splits],
    )


def _checked(table: ir.Table, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """Returns the valid rows of histories or behaviours: with users, and with lists that agree."""
    lists = [name for name, kind in table.schema().items() if kind.is_array()]
    names = ["user_id", *lists]
    if "impression_time" in table.columns:
        names.insert(1, "impression_time")

    rules = there(table, names)
    for name in lists:
        is_short = table[name].length() < _PLACES
        rules.append(Rule(name, f"must have fewer than {_PLACES:,}", is_short))
    # The two lists of a history are zipped below.
    if len(lists) == 2:
        same = table[lists[0]].length() == table[lists[1]].length()
        rules.append(Rule(lists[0], f"must be as many as {lists[1]}", same))
    return engine.keep_all_valid(table, rules, bad_rows)


def _clicks_of_histories(
    read: ir.Table, known: ir.Table, engine: Engine, bad_rows: BadRows
) -> ir.Table:
    """Returns the clicks of the histories, each once."""
    # Positions keep the order of a list, which sorting by time would not for equal times.
    place = ibis.range(read.article_id_fixed.length())
    clicks = read.select(
        "file", "row", "order", "user_id",
        click=read.article_id_fixed.zip(read.impression_time_fixed, place).unnest(),
    )  # fmt: skip
    clicks = clicks.select(
        "file", "row", "order", "user_id",
        article_id=clicks.click["f1"], time=clicks.click["f2"], place=clicks.click["f3"],
    )  # fmt: skip
    clicks = _interactions(clicks, known, engine, bad_rows)

    # The orders of histories are even, those of impressions are odd: no two clicks share one.
    return clicks.group_by(["user_id", "item_id", "timestamp"]).aggregate(
        order=clicks["order"].min() * 2
    )


def _clicks_of_impressions(
    shown: ir.Table, known: ir.Table, engine: Engine, bad_rows: BadRows
) -> ir.Table:
    """Returns the clicks of the impressions."""
    place = ibis.range(shown.article_ids_clicked.length())
    clicks = shown.select(
        "file", "row", "order", "user_id",
        time="impression_time", click=shown.article_ids_clicked.zip(place).unnest(),
    )  # fmt: skip
    clicks = clicks.select(
        "file", "row", "order", "user_id", "time",
        article_id=clicks.click["f1"], place=clicks.click["f2"],
    )  # fmt: skip
    clicks = _interactions(clicks, known, engine, bad_rows)
    return clicks.mutate(order=clicks["order"] * 2 + 1)


def _interactions(clicks: ir.Table, known: ir.Table, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """Returns the valid clicks in the types of a corpus.

    `order` is that of the row and, within it, that of the list.
    """
    rules = [
        Rule("time", "must have a value", clicks.time.notnull()),
        Rule("time", "must not be before 1970", since_1970(clicks.time)),
        Rule("article_id", f"must be listed in {ARTICLES}", known),
    ]
    clicks = engine.keep_all_valid(clicks, rules, bad_rows)

    return clicks.select(
        user_id=clicks.user_id.cast("int64"),
        item_id=clicks.article_id.cast("int64"),
        timestamp=milliseconds(clicks.time),
        order=clicks["order"] * _PLACES + clicks.place,
    )


def _clicks(of_histories: ir.Table, of_impressions: ir.Table) -> ir.Table:
    """Returns all clicks of the histories, and the later ones of the impressions."""
    # Users without a history have no last time: all of their clicks are later.
    last = of_histories.group_by("user_id").aggregate(last=of_histories.timestamp.max())
    later = of_impressions.left_join(last, "user_id").drop("user_id_right")
    later = later.filter(later.last.isnull() | (later.timestamp > later.last)).drop("last")
    return of_histories.union(later.select(of_histories.columns))


def _user_priors(shown: ir.Table) -> list[Labels]:
    """Returns the priors of users, from what their impressions say."""
    # A null is no label; users with none are in the remainder. Ages are the first year of a decade.
    labels = {
        "subscriber": shown.is_subscriber.ifelse("subscriber", "no subscriber"),
        "device": shown.device_type.cases(*_DEVICES),
        "age": shown.age.cast("string") + "-" + (shown.age.cast("int32") + 9).cast("string"),
        "gender": shown.gender.cases(*_GENDERS),
    }
    return [
        Labels(name, _most_frequent(shown, label), f"unknown {name}")
        for name, label in labels.items()
    ]


def _most_frequent(shown: ir.Table, label: ir.StringValue) -> ir.Table:
    """Returns (user_id, label): the label in most impressions of a user.

    Of equally frequent labels, it is the first by name.
    """
    values = shown.select(user_id=shown.user_id.cast("int64"), label=label)
    values = values.filter(values.label.notnull())

    counts = values.group_by(["user_id", "label"]).aggregate(n=values.count())
    by_frequency = ibis.window(
        group_by=counts.user_id, order_by=[ibis.desc(counts.n), counts.label]
    )
    ranked = counts.mutate(place=ibis.row_number().over(by_frequency))
    return ranked.filter(ranked.place == 0).select("user_id", "label")


def _computed_priors(options: Options) -> list[GraphPrior | UserPrior]:
    """Returns the settings of the communities that the options request."""
    priors: list[GraphPrior | UserPrior] = []
    if options.communities:
        community = GraphPrior(
            "community",
            last=options.last,
            neighbours=options.neighbours,
            groups=options.communities,
        )
        priors.append(community)
    if options.crowds:
        priors.append(UserPrior("crowd", neighbours=options.neighbours, groups=options.crowds))
    return priors
