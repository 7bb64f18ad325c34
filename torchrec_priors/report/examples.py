"""Example users as in the paper's Figure 5: the history, the next items, and the recommendations.

Users are drawn with a seed. `SOUGHT` of them have a target in a new category that the model with
heads recommends and the reference row does not. `AT_RANDOM` are drawn from the other users.

Shapes: U users that have targets, B users of a part of a file, R places of a list, T targets, J
categories.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.data.histories import Histories, history_batches, users_of
from torchrec_priors.experiments.per_user import first_rows, rows_of
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_texts import id_texts, plain_array
from torchrec_priors.report.head_reasons import HeadReasons
from torchrec_priors.report.result import Result
from torchrec_priors.report.sections import Row, Section
from torchrec_priors.retrieval.read_predictions import open_predictions

log = logging.getLogger(__name__)

SOUGHT = 2
AT_RANDOM = 2
SEED = 0
TOP = 10
_HISTORY = 8  # items of the history that are shown
_EACH_HEAD = 3  # items of a head that are shown
_HEADS = 8  # heads that are shown
_LONGEST_TITLE = 90  # letters
_CATEGORIES = 3  # categories of an item that are shown
_USERS = 4096  # in a batch that is read

# Marks of items. The page gives each mark its own style.
_HIT = "hit"
_NEW_HIT = "new"


@dataclass(frozen=True)
class Item:
    """An item of a list.

    Attributes:
        about: the categories of the item.
        mark: "hit", "new" (a hit of a category that the user never had), or "".
    """

    title: str
    about: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """Items under one heading: the first ones of a model's list, or those of one head.

    Attributes:
        reason: of a head, why it recommends its items to this user; "" if this is unknown.
    """

    title: str
    items: list[Item]
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """One user, with history, targets and recommendations.

    Attributes:
        why: the reason why this user is shown.
        earlier: the number of items in the history before those that are shown.
        columns: the recommendations of both models, then the items of each head.
        more_heads: the number of heads that are not shown.
    """

    user: str
    why: str
    history: list[Item]
    earlier: int
    targets: list[Item]
    columns: list[Column]
    more_heads: int


@dataclass(frozen=True)
class Examples:
    """Example users, and the rule by which they were chosen."""

    rule: str
    users: list[Example]


def examples(section: Section) -> Examples | None:
    """Chooses example users of a section.

    Returns:
        the users; None if the data set is missing, or no readable predictions contain heads. In
        both cases the page says elsewhere what is missing.
    """
    try:
        return _examples(section)
    except (pa.ArrowException, OSError) as error:
        log.warning(
            "no example users are shown, as predictions cannot be read (%s): evaluate again", error
        )
        return None


def _examples(section: Section) -> Examples | None:
    """Chooses example users; returns None without a data set, heads or complete predictions."""
    row = _most_accurate(section)
    if section.data is None or row is None:
        return None

    base = section.reference.results[0]
    # Seeds differ in accuracy, too, so the same seed of both models is compared if both have it.
    ours = _same_seed(row, base.seed)
    with open_predictions(ours.predictions, ours.metrics) as opened:
        names = opened.schema.names
    if "heads" not in names or not base.predictions.is_file():
        return None

    catalogue = _Catalogue.of(section.data)
    base_UR = _top_rows(catalogue, base)
    ours_UR = _top_rows(catalogue, ours)
    users = int(users_of(section.data, section.split).sum())
    # Predictions that were made before the data set grew are of other users.
    if len(base_UR) != users or len(ours_UR) != users:
        return None

    chosen = _choose(section, catalogue, base_UR, ours_UR)
    reasons = HeadReasons.of(ours, section.data)
    shown = [
        _example(section, catalogue, position, why, base, ours, row, reasons)
        for position, why in chosen
    ]
    rule = (
        f"Heads are those of “{row.label}”, the most accurate model with several heads, seed "
        f"{ours.seed}. {SOUGHT} users are drawn (seed {SEED}) from those with a target in a new "
        f"category that is among the first {TOP} items of this model and not of "
        f"“{section.reference.label}”; {AT_RANDOM} users are drawn from all others. The items of "
        "a head are those in the model's list that the head explains, with their places in that "
        "list."
    )
    return Examples(rule, shown)


@dataclass(frozen=True)
class _Catalogue:
    """The names and categories of a data set's items.

    Attributes:
        ids: the original id of each row.
        titles: the title of each row; the id if an item has no title.
        category: the groups of the category prior.
    """

    data: PreparedData
    ids: pa.Array
    titles: pa.Array
    category: Categories

    @classmethod
    def of(cls, data: PreparedData) -> "_Catalogue":
        """Reads the catalogue of a data set."""
        table = data.catalogue()
        ids = table["item_id"].combine_chunks()
        titles = id_texts(ids, f"items of '{data.folder}'")
        # Titles are in the first of these columns that the catalogue has. An empty text is not a
        # title.
        for name in ("title", "text", "name"):
            if name in table.column_names:
                given = pc.fill_null(plain_array(table[name]).cast(pa.string()), "")
                titles = pc.if_else(pc.equal(given, ""), titles, given)
                break
        return cls(data, ids, titles, Categories.of_prior(data, data.manifest.category_prior))

    def item(self, row: int, mark: str = "", rank: int | None = None) -> Item:
        """Describes an item for the page, with its place in a list if `rank` is given."""
        title = self.titles[int(row)].as_py()
        if len(title) > _LONGEST_TITLE:
            title = title[: _LONGEST_TITLE - 2] + "…"
        if rank is not None:
            title = f"{rank}. {title}"

        _, groups = self.category.expand(np.array([row]))
        names = [self.category.groups[group] for group in groups[:_CATEGORIES]]
        return Item(title, ", ".join(names), mark)


def _most_accurate(section: Section) -> Row | None:
    """Returns the most accurate model that has several heads and the predictions of all seeds."""
    rows = [
        row
        for row in section.rows
        if row.variant.ours and (row.heads or 0) > 1 and row is not section.reference
    ]
    rows = [row for row in rows if all(result.predictions.is_file() for result in row.results)]
    return max(rows, key=lambda row: row.mean("ndcg@10") or 0.0, default=None)


def _same_seed(row: Row, seed: int) -> Result:
    """Returns the result of a seed; the first result if the row lacks this seed."""
    for result in row.results:
        if result.seed == seed:
            return result
    return row.results[0]


def _top_rows(catalogue: _Catalogue, result: Result) -> np.ndarray:
    """Reads every user's first items, int64 [U, TOP]; -1 after the end of a shorter list."""
    parts = []
    with open_predictions(result.predictions, result.metrics) as opened:
        for part in opened.iter_batches(_USERS, ["items"]):
            parts.append(first_rows(part["items"], TOP, catalogue.ids))
    return np.concatenate(parts)


def _choose(
    section: Section, catalogue: _Catalogue, base_UR: np.ndarray, ours_UR: np.ndarray
) -> list[tuple[int, str]]:
    """Returns positions of users in the split, each with the reason why the user is shown."""
    assert section.data is not None

    # `sought` has the users with a target in a new category that is in our list but not in the
    # reference row's.
    sought: list[int] = []
    first = 0
    for users in history_batches(section.data, section.split, context=1, batch=_USERS):
        user_T = np.repeat(np.arange(len(users)), users.target_lengths)
        new_T = _is_new(catalogue.category, users, user_T)

        part = slice(first, first + len(users))
        in_ours_T = (ours_UR[part][user_T] == users.targets[:, None]).any(1)
        in_base_T = (base_UR[part][user_T] == users.targets[:, None]).any(1)
        # A user with several of these targets is counted once.
        sought += (first + np.unique(user_T[new_T & in_ours_T & ~in_base_T])).tolist()
        first += len(users)

    # Both draws use one generator, so their order must not change.
    random = np.random.default_rng(SEED)
    drawn = _draw(random, sought, SOUGHT)
    others = _draw(random, np.setdiff1d(np.arange(first), sought), AT_RANDOM)
    return [
        *((position, "a new interest met") for position in drawn),
        *((position, "drawn at random") for position in others),
    ]


def _draw(
    random: np.random.Generator, positions: Sequence[int] | np.ndarray, number: int
) -> list[int]:
    """Draws up to `number` positions, in ascending order. Without positions, it draws nothing."""
    if not len(positions):
        return []
    drawn: list[int] = random.choice(positions, min(number, len(positions)), replace=False).tolist()
    return sorted(drawn)


def _is_new(category: Categories, users: Histories, user_T: np.ndarray) -> np.ndarray:
    """Marks the targets with a category that never occurs in the user's history, bool [T]."""
    seen_user = np.repeat(np.arange(len(users)), users.seen_lengths)
    known_BJ = category.count(seen_user, users.seen, len(users)) > 0
    targets = len(users.targets)
    target_TJ = category.count(np.arange(targets), users.targets, targets) > 0
    return np.asarray((target_TJ & ~known_BJ[user_T]).any(1))


def _example(
    section: Section,
    catalogue: _Catalogue,
    position: int,
    why: str,
    base: Result,
    ours: Result,
    row: Row,
    reasons: HeadReasons | None,
) -> Example:
    """Collects what the page shows of one user.

    Args:
        position: the user's position among the users of the split.
        why: the reason why this user is shown.
        base: a result of the reference row.
        ours: the result of `row` with the heads that are shown.
        reasons: writes the reasons of its heads; None if they are unknown.
    """
    users = _history_of(section, position)
    new_T = _is_new(catalogue.category, users, np.zeros(len(users.targets), np.int64))
    marks = {
        int(target): _NEW_HIT if is_new else _HIT
        for target, is_new in zip(users.targets, new_T, strict=True)
    }

    base_rows, _ = _predicted(catalogue, base, position)
    our_rows, heads = _predicted(catalogue, ours, position)
    columns = []
    for label, rows in ((section.reference.label, base_rows), (row.label, our_rows)):
        items = [catalogue.item(item, marks.get(int(item), "")) for item in rows[:TOP]]
        columns.append(Column(f"{label}: the first {TOP}", items))

    # Heads are in the order in which they first occur in the list.
    by_head: dict[str, list[Item]] = {}
    for rank, (item, head) in enumerate(zip(our_rows, heads, strict=True), 1):
        head_items = by_head.setdefault(head, [])
        if len(head_items) < _EACH_HEAD:
            head_items.append(catalogue.item(item, marks.get(int(item), ""), rank))
    for head, items in list(by_head.items())[:_HEADS]:
        reason = ""
        if reasons is not None:
            reason = reasons.of_head(head, users)
        columns.append(Column(f"head: {head}", items, reason))

    targets = []
    for target in users.targets:
        mark = ""
        if target in base_rows[:TOP] or target in our_rows[:TOP]:
            mark = marks[int(target)]
        targets.append(catalogue.item(target, mark))
    return Example(
        user=str(users.user_ids[0]),
        why=why,
        history=[catalogue.item(item) for item in users.seen[-_HISTORY:]],
        earlier=max(0, len(users.seen) - _HISTORY),
        targets=targets,
        columns=columns,
        more_heads=max(0, len(by_head) - _HEADS),
    )


def _history_of(section: Section, position: int) -> Histories:
    """Reads the history and the targets of one user of the split."""
    assert section.data is not None
    numbers = np.flatnonzero(users_of(section.data, section.split))
    chosen = np.zeros(section.data.users, bool)
    chosen[numbers[position]] = True
    batches = history_batches(section.data, section.split, context=1, batch=1, chosen=chosen)
    return next(iter(batches))


def _predicted(
    catalogue: _Catalogue, result: Result, position: int
) -> tuple[np.ndarray, list[str]]:
    """Reads the items and the heads of one user's list; no heads if the file has none."""
    first = 0
    with open_predictions(result.predictions, result.metrics) as opened:
        columns = [name for name in ("items", "heads") if name in opened.schema.names]
        for group in range(opened.row_groups):
            users = opened.metadata.row_group(group).num_rows
            if position >= first + users:
                first += users
                continue

            part = opened.read_row_group(group, columns).slice(position - first, 1)
            heads: list[str] = []
            if "heads" in columns:
                heads = pc.list_flatten(part["heads"]).to_pylist()
            items = pc.list_flatten(part["items"]).combine_chunks()
            return rows_of(items, catalogue.ids), heads
    raise AssertionError(f"{result.predictions} has no user {position}")
