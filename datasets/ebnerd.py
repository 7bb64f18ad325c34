"""EB-NeRD (Ekstra Bladet; research use): clicks on news articles, 27 April to 8 June 2023.

The files are those of one bundle (demo, small or large): `articles.parquet`, and
`behaviors.parquet` and `history.parquet` in the folders `train` and `validation`. These columns are
read:

- of articles: article_id, title, subtitle, category_str, topics, premium,
- of histories: user_id, article_id_fixed, impression_time_fixed,
- of behaviours: user_id, impression_time, article_ids_clicked, device_type, gender, age,
  is_subscriber.

The data card, `ebnerd.md`, lists all columns and says how to get the files. Expected for `large`
with the default options: 44,968 users, 25,216 articles and 30 million interactions (the paper's
Table 4).

An interaction is a click. The files list most clicks two or three times. The histories of the two
splits overlap, and the history of `validation` also contains the clicks in the impressions of
`train`. Therefore a click (user, article, time) in the histories counts once. A click in the
impressions counts only if it is later than all clicks of the same user in the histories.

Priors of articles: `category` (the category prior), `topic` (several for an article), `community`
(articles read by the same users). Priors of users: `subscriber`, `device`, `age` and `gender` (for
each, the most frequent value in the user's impressions), and `crowd` (communities of users).
Source: https://recsys.eb.dk; Johannes Kruse et al., RecSys Challenge 2024, arXiv:2410.03432.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.label_counts import most_frequent
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

_ARTICLE_COLUMNS: Mapping[str, Kind] = {
    "article_id": WHOLE,
    "title": TEXT,
    "subtitle": TEXT,
    "category_str": TEXT,
    "topics": lists_of(TEXT),
    "premium": TRUTH,
}
_HISTORY_COLUMNS: Mapping[str, Kind] = {
    "user_id": WHOLE,
    "article_id_fixed": lists_of(WHOLE),
    "impression_time_fixed": lists_of(TIME),
}
_BEHAVIOUR_COLUMNS: Mapping[str, Kind] = {
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
# A list of clicks must be shorter than this, so that a row and a position give one sortable number.
_PLACES = 1 << 16


@dataclass(frozen=True)
class Options:
    """The options that users set with `--option`.

    Attributes:
        min_history: users with fewer clicks are left out. The default is the paper's filter.
        catalogue: the articles in the catalogue: those that the kept users have read (`read`), as
            in the paper, or all (`all`).
        communities: the number of groups of the prior `community`; 0 for no such prior.
        crowds: the number of groups of the prior `crowd`; 0 for no such prior.
        last: the number of each user's latest training clicks that connect articles to communities.
            The paper's value is 1000, which gives very many pairs of articles.
        neighbours: the number of strongest neighbours that each article and each user keeps.
    """

    min_history: int = 512
    catalogue: Literal["read", "all"] = "read"
    communities: int = 11
    crowds: int = 9
    last: int = 50
    neighbours: int = 20


def load(raw: Path, bad_rows: BadRows, engine: Engine, options: Options) -> Corpus:
    articles_file, history_files, behaviour_files = _files(raw)
    articles = engine.read_parquet(
        [articles_file], found_types(articles_file, _ARTICLE_COLUMNS), bad_rows
    )
    articles = engine.keep_all_valid(articles, there(articles, ["article_id"]), bad_rows)
    engine.require_unique(articles, "article_id")

    behaviours = engine.read_parquet(
        behaviour_files, found_types(behaviour_files[0], _BEHAVIOUR_COLUMNS), bad_rows
    )
    behaviours = _checked(behaviours, engine, bad_rows)
    histories = engine.read_parquet(
        history_files, found_types(history_files[0], _HISTORY_COLUMNS), bad_rows
    )
    histories = _checked(histories, engine, bad_rows)

    known = articles.select("article_id")
    log = _clicks(
        _clicks_of_histories(histories, known, engine, bad_rows),
        _clicks_of_impressions(behaviours, known, engine, bad_rows),
    )

    # The clicks are stored because they are read twice: once to count, and once as the log.
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
        user_priors=_user_priors(behaviours),
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

    # One of the two splits is enough.
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
    """Returns the valid rows of histories or behaviours.

    A valid row has a user, and its lists are present, short enough and equally long.
    """
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
    histories: ir.Table, known: ir.Table, engine: Engine, bad_rows: BadRows
) -> ir.Table:
    """Returns the clicks in the histories, without repeats."""
    # Positions preserve the order of a list even if times are equal.
    place = ibis.range(histories.article_id_fixed.length())
    clicks = histories.select(
        "file", "row", "order", "user_id",
        click=histories.article_id_fixed.zip(histories.impression_time_fixed, place).unnest(),
    )  # fmt: skip
    clicks = clicks.select(
        "file", "row", "order", "user_id",
        article_id=clicks.click["f1"], time=clicks.click["f2"], place=clicks.click["f3"],
    )  # fmt: skip
    clicks = _interactions(clicks, known, engine, bad_rows)

    # The values of `order` are even for histories and odd for impressions, so that they differ.
    return clicks.group_by(["user_id", "item_id", "timestamp"]).aggregate(
        order=clicks["order"].min() * 2
    )


def _clicks_of_impressions(
    behaviours: ir.Table, known: ir.Table, engine: Engine, bad_rows: BadRows
) -> ir.Table:
    """Returns the clicks in the impressions."""
    place = ibis.range(behaviours.article_ids_clicked.length())
    clicks = behaviours.select(
        "file", "row", "order", "user_id",
        time="impression_time", click=behaviours.article_ids_clicked.zip(place).unnest(),
    )  # fmt: skip
    clicks = clicks.select(
        "file", "row", "order", "user_id", "time",
        article_id=clicks.click["f1"], place=clicks.click["f2"],
    )  # fmt: skip
    clicks = _interactions(clicks, known, engine, bad_rows)
    return clicks.mutate(order=clicks["order"] * 2 + 1)


def _interactions(clicks: ir.Table, known: ir.Table, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """Returns the valid clicks with the columns and types of a corpus.

    `order` sorts clicks by their row, and within a row by their position in the list.
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
    """Returns all clicks in the histories, and the later clicks in the impressions."""
    # Users without a history have no last time, so all of their clicks count as later.
    last = of_histories.group_by("user_id").aggregate(last=of_histories.timestamp.max())
    later = of_impressions.left_join(last, "user_id").drop("user_id_right")
    later = later.filter(later.last.isnull() | (later.timestamp > later.last)).drop("last")
    return of_histories.union(later.select(of_histories.columns))


def _user_priors(behaviours: ir.Table) -> list[Labels]:
    """Returns the priors of users, computed from their impressions."""
    # A null is not a label, and users without any label are in the remainder group. The files give
    # the first year of a decade as the age.
    labels = {
        "subscriber": behaviours.is_subscriber.ifelse("subscriber", "no subscriber"),
        "device": behaviours.device_type.cases(*_DEVICES),
        "age": behaviours.age.cast("string")
        + "-"
        + (behaviours.age.cast("int32") + 9).cast("string"),
        "gender": behaviours.gender.cases(*_GENDERS),
    }

    return [
        Labels(name, most_frequent(behaviours, label), f"unknown {name}")
        for name, label in labels.items()
    ]


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
