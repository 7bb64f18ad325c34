"""Example users as in the paper's Figure 5: what they had, what came next, and what each model and head recommended.

Users are taken by a rule and a seed: `SOUGHT` of those to whom heads bring a hit of a category that they never had,
which the reference row misses, and `AT_RANDOM` of the others.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.data.histories import Histories, history_batches, users_of
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_texts import id_texts, plain_array
from torchrec_priors.report.runs import Result
from torchrec_priors.report.sections import Row, Section
from torchrec_priors.retrieval.read_predictions import open_predictions

log = logging.getLogger(__name__)

SOUGHT = 2
AT_RANDOM = 2
SEED = 0
TOP = 10
_HISTORY = 8
_EACH_HEAD = 3
_HEADS = 8
_USERS = 4096  # read at a time


@dataclass(frozen=True)
class Item:
    """
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
    """One user."""

    user: str
    why: str
    history: list[Item]
    earlier: int
    targets: list[Item]
    columns: list[Column]
    more_heads: int


@dataclass(frozen=True)
class Examples:
    rule: str
    users: list[Example]


def examples(section: Section) -> Examples | None:
    """None where there is no data set, or no predictions with heads that can be read, which the page says elsewhere."""
    try:
        return _examples(section)
    except (pa.ArrowException, OSError) as error:
        log.warning(
            "no example users are shown, as predictions cannot be read (%s): evaluate again", error
        )
        return None


def _examples(section: Section) -> Examples | None:
    row = _most_accurate(section)
    if section.data is None or row is None:
        return None
    base = section.reference.results[0]
    ours = _same_seed(row, section.reference.results[0].seed)
    with open_predictions(ours.predictions, ours.metrics) as opened:
        names = opened.schema.names
    if "heads" not in names or not base.predictions.is_file():
        return None
    shop = _Shop.of(section.data)
    lists = [_top_rows(shop, result) for result in (base, ours)]
    if any(len(rows) != int(users_of(section.data, section.split).sum()) for rows in lists):  # type: ignore[arg-type]
        return None
    chosen = _choose(section, shop, *lists)
    found = [_example(section, shop, place, why, base, ours, row) for place, why in chosen]
    rule = (
        f"Heads are those of “{row.label}”, the most accurate model with several heads, seed {ours.seed}. Users: "
        f"{SOUGHT} drawn (seed {SEED}) from those to whom its first {TOP} bring a target in a category that they "
        f"never had, which “{section.reference.label}” misses, and {AT_RANDOM} drawn from all others. A head's "
        "items are those of the model's list that the head ranks it by, with their places in that list."
    )
    return Examples(rule, found)


@dataclass(frozen=True)
class _Shop:
    """The catalogue, for reading.

    Attributes:
        ids: original ids by row.
        titles: what people read.
    """

    data: PreparedData
    ids: pa.Array
    titles: pa.Array
    category: Categories

    @classmethod
    def of(cls, data: PreparedData) -> "_Shop":
        table = data.catalogue()
        ids = table["item_id"].combine_chunks()
        titles = id_texts(ids, f"items of '{data.folder}'")
        for name in ("title", "text", "name"):
            if name in table.column_names:
                given = pc.fill_null(plain_array(table[name]).cast(pa.string()), "")
                titles = pc.if_else(pc.equal(given, ""), titles, given)
                break
        return cls(data, ids, titles, Categories.of_prior(data, data.manifest.category_prior))

    def item(self, row: int, mark: str = "", place: int | None = None) -> Item:
        _, groups = self.category.expand(np.array([row]))
        title = self.titles[int(row)].as_py()
        shown = title if len(title) <= 90 else title[:88] + "…"
        return Item(
            shown if place is None else f"{place}. {shown}",
            ", ".join(self.category.groups[group] for group in groups[:3]),
            mark,
        )

    def rows(self, ids: pa.Array) -> np.ndarray:
        return np.asarray(pc.index_in(ids, self.ids).to_numpy(zero_copy_only=False), np.int64)


def _most_accurate(section: Section) -> Row | None:
    rows = [
        row
        for row in section.rows
        if row.variant.ours and (row.heads or 0) > 1 and row is not section.reference
    ]
    rows = [row for row in rows if all(result.predictions.is_file() for result in row.results)]
    return max(rows, key=lambda row: row.mean("ndcg@10") or 0.0, default=None)


def _same_seed(row: Row, seed: int) -> Result:
    return next((result for result in row.results if result.seed == seed), row.results[0])


def _top_rows(shop: _Shop, result: Result) -> np.ndarray:
    """int64 [U, TOP]; -1 where a list is shorter."""
    parts = []
    with open_predictions(result.predictions, result.metrics) as opened:
        for part in opened.iter_batches(_USERS, ["items"]):
            first = pc.list_slice(part["items"], 0, TOP)
            lengths = pc.list_value_length(first).to_numpy(zero_copy_only=False)
            row_BR = np.full((len(part), TOP), -1)
            row_BR[np.arange(TOP) < lengths[:, None]] = shop.rows(pc.list_flatten(first))
            parts.append(row_BR)
    return np.concatenate(parts)


def _choose(
    section: Section, shop: _Shop, base_UR: np.ndarray, ours_UR: np.ndarray
) -> list[tuple[int, str]]:
    """Places among the users of the split, and why they are shown."""
    assert section.data is not None
    sought: list[int] = []
    first = 0
    for users in history_batches(section.data, section.split, context=1, batch=_USERS):  # type: ignore[arg-type]
        user = np.repeat(np.arange(len(users)), users.target_lengths)
        new = _is_new(shop.category, users, user)
        here = slice(first, first + len(users))
        in_ours = (ours_UR[here][user] == users.targets[:, None]).any(1)
        in_base = (base_UR[here][user] == users.targets[:, None]).any(1)
        sought += (first + np.unique(user[new & in_ours & ~in_base])).tolist()
        first += len(users)
    random = np.random.default_rng(SEED)
    drawn = (
        sorted(random.choice(sought, min(SOUGHT, len(sought)), replace=False).tolist())
        if sought
        else []
    )
    rest = np.setdiff1d(np.arange(first), sought)
    others = (
        sorted(random.choice(rest, min(AT_RANDOM, len(rest)), replace=False).tolist())
        if len(rest)
        else []
    )
    return [(place, "a new interest met") for place in drawn] + [
        (place, "drawn at random") for place in others
    ]


def _is_new(category: Categories, users: Histories, user: np.ndarray) -> np.ndarray:
    """bool: targets of a category that never occurs in their user's history."""
    seen_user = np.repeat(np.arange(len(users)), users.seen_lengths)
    known_BJ = category.count(seen_user, users.seen, len(users)) > 0
    target_TJ = category.count(np.arange(len(users.targets)), users.targets, len(users.targets)) > 0
    return np.asarray((target_TJ & ~known_BJ[user]).any(1))


def _example(
    section: Section, shop: _Shop, place: int, why: str, base: Result, ours: Result, row: Row
) -> Example:
    assert section.data is not None
    number = np.flatnonzero(users_of(section.data, section.split))[place]  # type: ignore[arg-type]
    chosen = np.zeros(section.data.users, bool)
    chosen[number] = True
    batches = history_batches(
        section.data,
        section.split,  # type: ignore[arg-type]
        context=1,
        batch=1,
        chosen=chosen,
    )
    users = next(iter(batches))
    new = _is_new(shop.category, users, np.zeros(len(users.targets), np.int64))
    mark = {
        int(item): "new" if its_new else "hit"
        for item, its_new in zip(users.targets, new, strict=True)
    }
    lists = [_predicted(shop, result, place) for result in (base, ours)]
    columns = []
    for title, (rows, _) in zip((section.reference.label, row.label), lists, strict=True):
        items = [shop.item(item, mark.get(int(item), "")) for item in rows[:TOP]]
        columns.append(Column(f"{title}: the first {TOP}", items))
    rows, heads = lists[1]
    by_head: dict[str, list[Item]] = {}
    for rank, (item, head) in enumerate(zip(rows, heads, strict=True), 1):
        its = by_head.setdefault(head, [])
        if len(its) < _EACH_HEAD:
            its.append(shop.item(item, mark.get(int(item), ""), rank))
    columns += [Column(f"head: {head}", items) for head, items in list(by_head.items())[:_HEADS]]
    targets = [
        shop.item(item, mark[int(item)] if _shown(item, lists) else "") for item in users.targets
    ]
    history = [shop.item(item) for item in users.seen[-_HISTORY:]]
    earlier = max(0, len(users.seen) - _HISTORY)
    return Example(
        str(users.user_ids[0]),
        why,
        history,
        earlier,
        targets,
        columns,
        max(0, len(by_head) - _HEADS),
    )


def _shown(item: int, lists: Sequence[tuple[np.ndarray, list[str]]]) -> bool:
    return any(item in rows[:TOP] for rows, _ in lists)


def _predicted(shop: _Shop, result: Result, place: int) -> tuple[np.ndarray, list[str]]:
    """Rows and heads of one user's list."""
    first = 0
    with open_predictions(result.predictions, result.metrics) as opened:
        columns = [name for name in ("items", "heads") if name in opened.schema.names]
        for group in range(opened.row_groups):
            here = opened.metadata.row_group(group).num_rows
            if place < first + here:
                one = opened.read_row_group(group, columns).slice(place - first, 1)
                heads = pc.list_flatten(one["heads"]).to_pylist() if "heads" in columns else []
                return shop.rows(pc.list_flatten(one["items"]).combine_chunks()), heads
            first += here
    raise AssertionError(f"{result.predictions} has no user {place}")
