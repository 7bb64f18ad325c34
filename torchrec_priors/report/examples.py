"""Example users as in the paper's Figure 5: history, what came next, and what was recommended.

Users are chosen by a rule and a seed: `SOUGHT` of those to whom heads bring a hit of a category
that they never had, which the reference row misses, and `AT_RANDOM` of the others.

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
from torchrec_priors.experiment.per_user import first_rows, rows_of
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_texts import id_texts, plain_array
from torchrec_priors.report.result import Result
from torchrec_priors.report.sections import Row, Section
from torchrec_priors.retrieval.read_predictions import open_predictions

log = logging.getLogger(__name__)

SOUGHT = 2
AT_RANDOM = 2
SEED = 0
TOP = 10
_HISTORY = 8  # items shown
_EACH_HEAD = 3  # items shown
_HEADS = 8  # shown
_LONGEST_TITLE = 90  # letters
_CATEGORIES = 3  # of an item, shown
_USERS = 4096  # read at a time

# Marks of items, by which the page styles them.
_HIT = "hit"
_NEW_HIT = "new"


@dataclass(frozen=True)
class Item:
    """An item of a list.

    Attributes:
        about: its categories.
        mark: "hit", "new" (a hit of a category that the user never had), or "".
    """

    title: str
    about: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """Items under one heading: a model's best ones, or a head's."""

    title: str
    items: list[Item]


@dataclass(frozen=True)
class Example:
    """One user.

    Attributes:
        why: the user is shown.
        earlier: the number of items before the history that is shown.
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
    """Users, and the rule by which they were chosen."""

    rule: str
    users: list[Example]


def examples(section: Section) -> Examples | None:
    """Example users of a section.

    None without a data set, or without predictions with heads that can be read, which the page says
    elsewhere.
    """
    try:
        return _examples(section)
    except (pa.ArrowException, OSError) as error:
        log.warning(
            "no example users are shown, as predictions cannot be read (%s): evaluate again", error
        )
        return None


def _examples(section: Section) -> Examples | None:
    """Example users; None without a data set, heads or whole predictions."""
    row = _most_accurate(section)
    if section.data is None or row is None:
        return None

    base = section.reference.results[0]
    # The same seed, as far as both have it: seeds differ in how well they were trained, too.
    ours = _same_seed(row, base.seed)
    with open_predictions(ours.predictions, ours.metrics) as opened:
        names = opened.schema.names
    if "heads" not in names or not base.predictions.is_file():
        return None

    catalogue = _Catalogue.of(section.data)
    base_UR = _top_rows(catalogue, base)
    ours_UR = _top_rows(catalogue, ours)
    users = int(users_of(section.data, section.split).sum())
    # Predictions of another state of the data set are of other users.
    if len(base_UR) != users or len(ours_UR) != users:
        return None

    chosen = _choose(section, catalogue, base_UR, ours_UR)
    shown = [
        _example(section, catalogue, position, why, base, ours, row) for position, why in chosen
    ]
    rule = (
        f"Heads are those of “{row.label}”, the most accurate model with several heads, seed "
        f"{ours.seed}. Users: {SOUGHT} drawn (seed {SEED}) from those to whom its first {TOP} "
        "bring a target in a category that they never had, which "
        f"“{section.reference.label}” misses, and {AT_RANDOM} drawn from all others. A head's "
        "items are those of the model's list that the head ranks it by, with their places in that "
        "list."
    )
    return Examples(rule, shown)


@dataclass(frozen=True)
class _Catalogue:
    """The items of a data set, for readers.

    Attributes:
        ids: original ids by row.
        titles: by row; the id if an item has no title.
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
        # The first of these columns that the catalogue has; an empty text is no title.
        for name in ("title", "text", "name"):
            if name in table.column_names:
                given = pc.fill_null(plain_array(table[name]).cast(pa.string()), "")
                titles = pc.if_else(pc.equal(given, ""), titles, given)
                break
        return cls(data, ids, titles, Categories.of_prior(data, data.manifest.category_prior))

    def item(self, row: int, mark: str = "", rank: int | None = None) -> Item:
        """An item as it is shown, with its place in a list if it has one."""
        title = self.titles[int(row)].as_py()
        if len(title) > _LONGEST_TITLE:
            title = title[: _LONGEST_TITLE - 2] + "…"
        if rank is not None:
            title = f"{rank}. {title}"

        _, groups = self.category.expand(np.array([row]))
        names = [self.category.groups[group] for group in groups[:_CATEGORIES]]
        return Item(title, ", ".join(names), mark)


def _most_accurate(section: Section) -> Row | None:
    """The most accurate model with several heads, all of whose predictions exist."""
    rows = [
        row
        for row in section.rows
        if row.variant.ours and (row.heads or 0) > 1 and row is not section.reference
    ]
    rows = [row for row in rows if all(result.predictions.is_file() for result in row.results)]
    return max(rows, key=lambda row: row.mean("ndcg@10") or 0.0, default=None)


def _same_seed(row: Row, seed: int) -> Result:
    """The result of a seed, or the first one."""
    for result in row.results:
        if result.seed == seed:
            return result
    return row.results[0]


def _top_rows(catalogue: _Catalogue, result: Result) -> np.ndarray:
    """int64 [U, TOP]: the first items of every user; -1 after the end of a shorter list."""
    parts = []
    with open_predictions(result.predictions, result.metrics) as opened:
        for part in opened.iter_batches(_USERS, ["items"]):
            parts.append(first_rows(part["items"], TOP, catalogue.ids))
    return np.concatenate(parts)


def _choose(
    section: Section, catalogue: _Catalogue, base_UR: np.ndarray, ours_UR: np.ndarray
) -> list[tuple[int, str]]:
    """Positions among the users of the split, and why they are shown."""
    assert section.data is not None

    # Users with a hit of ours in a category new to them, which the reference row does not have.
    sought: list[int] = []
    first = 0
    for users in history_batches(section.data, section.split, context=1, batch=_USERS):
        user_T = np.repeat(np.arange(len(users)), users.target_lengths)
        new_T = _is_new(catalogue.category, users, user_T)
        part = slice(first, first + len(users))
        in_ours_T = (ours_UR[part][user_T] == users.targets[:, None]).any(1)
        in_base_T = (base_UR[part][user_T] == users.targets[:, None]).any(1)
        # Once for each user, however many such targets there are.
        sought += (first + np.unique(user_T[new_T & in_ours_T & ~in_base_T])).tolist()
        first += len(users)

    # The order of the two draws is part of the rule.
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
    """Some positions in rising order; all if there are no more. Nothing is drawn from none."""
    if not len(positions):
        return []
    drawn: list[int] = random.choice(positions, min(number, len(positions)), replace=False).tolist()
    return sorted(drawn)


def _is_new(category: Categories, users: Histories, user_T: np.ndarray) -> np.ndarray:
    """bool [T]: targets of a category that never occurs in their user's history."""
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
) -> Example:
    """One user as the page shows them.

    Args:
        position: of the user among those of the split.
        base: the reference row's result.
        ours: the result of `row` whose heads are shown.
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

    # Heads in the order in which the list first names them.
    by_head: dict[str, list[Item]] = {}
    for rank, (item, head) in enumerate(zip(our_rows, heads, strict=True), 1):
        of_head = by_head.setdefault(head, [])
        if len(of_head) < _EACH_HEAD:
            of_head.append(catalogue.item(item, marks.get(int(item), ""), rank))
    for head, items in list(by_head.items())[:_HEADS]:
        columns.append(Column(f"head: {head}", items))

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
    """The history and targets of one user of the split."""
    assert section.data is not None
    numbers = np.flatnonzero(users_of(section.data, section.split))
    chosen = np.zeros(section.data.users, bool)
    chosen[numbers[position]] = True
    batches = history_batches(section.data, section.split, context=1, batch=1, chosen=chosen)
    return next(iter(batches))


def _predicted(
    catalogue: _Catalogue, result: Result, position: int
) -> tuple[np.ndarray, list[str]]:
    """Rows and heads of one user's list; no heads if the file has none."""
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
