"""Writes the synthetic marketplace as files in the form of EB-NeRD's.

The files contain the articles, and the behaviours and histories of two splits. Users behave as in
the marketplace (`histories.py`), within the five weeks of EB-NeRD's two splits. Histories are as
long as EB-NeRD's: 150 clicks on average, and 512 or more for 5 % of the users. As in the published
files, a click may be in the histories of both splits and in a week of impressions.
`datasets/ebnerd.py` counts each click once, and so reads as many interactions as were requested.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.splitmix import mix, unit
from torchrec_priors.parquet import ParquetWriter, write_table
from torchrec_priors.synthetic.articles import article_ids, articles
from torchrec_priors.synthetic.catalogue import Catalogue, items_for
from torchrec_priors.synthetic.folder import Report, make_folder
from torchrec_priors.synthetic.histories import make_histories
from torchrec_priors.synthetic.randomness import user_keys
from torchrec_priors.synthetic.users import Lengths, chunks, pauses

SPLITS = ("train", "validation")
ARTICLES = "articles.parquet"
HISTORY = "history.parquet"
BEHAVIOURS = "behaviors.parquet"
_IDS = pa.large_list(pa.int32())
HISTORY_SCHEMA = pa.schema(
    {
        "user_id": pa.uint32(),
        "impression_time_fixed": pa.large_list(pa.timestamp("us")),
        "scroll_percentage_fixed": pa.large_list(pa.float32()),
        "article_id_fixed": _IDS,
        "read_time_fixed": pa.large_list(pa.float32()),
    }
)
BEHAVIOURS_SCHEMA = pa.schema(
    {
        "impression_id": pa.uint32(),
        "article_id": pa.int32(),
        "impression_time": pa.timestamp("us"),
        "read_time": pa.float32(),
        "scroll_percentage": pa.float32(),
        "device_type": pa.int8(),
        "article_ids_inview": _IDS,
        "article_ids_clicked": _IDS,
        "user_id": pa.uint32(),
        "is_sso_user": pa.bool_(),
        "gender": pa.int8(),
        "postcode": pa.int8(),
        "age": pa.int8(),
        "is_subscriber": pa.bool_(),
        "session_id": pa.uint32(),
        "next_read_time": pa.float32(),
        "next_scroll_percentage": pa.float32(),
    }
)

_VERSION = 1  # raised when the same seed gives different files from before
_LENGTHS = Lengths(median=80.0, spread=1.1, shortest=5, longest=1_800)
_USERS_AT_ONCE = 2_048
_START = datetime(2023, 4, 27, 7, tzinfo=UTC)
# The beginnings of the two weeks of impressions, in seconds since 1970.
_TRAIN = int((_START + timedelta(weeks=3)).timestamp())
_VALIDATION = int((_START + timedelta(weeks=4)).timestamp())
_WEEK = 7 * 86_400
_HISTORY_SPAN = 3 * _WEEK
_MINUTE_MS = 60_000
_TWO_CLICKS = 0.02  # the share of clicks in the same impression as the previous click
_MOST_INVIEW = 15  # the maximum number of articles that an impression shows


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Report = lambda _: None,
    *,
    users_at_once: int = _USERS_AT_ONCE,
) -> None:
    """Writes a folder with exactly `rows` clicks, which the files may list more than once.

    Nothing is written if the folder already contains the same log.

    Args:
        raw: The folder.
        rows: The number of distinct clicks of all users.
        seed: The seed of all draws.
        report: Called with messages about the progress.
        users_at_once: The number of users in memory at a time. The clicks do not depend on it.

    Raises:
        UserError: There are too few rows, the seed is out of range, or the folder contains
            something else.
    """

    def write(folder: Path) -> None:
        _write(folder, rows, seed, users_at_once, report)

    make_folder(raw, "ebnerd", _VERSION, rows, seed, report, write)


def _write(folder: Path, rows: int, seed: int, users_at_once: int, report: Report) -> None:
    catalogue = Catalogue.make(items_for(rows), seed)
    write_table(articles(catalogue, seed), folder / ARTICLES)

    done = 0
    impressions = 0
    with ExitStack() as stack:
        histories = []
        behaviours = []
        for split in SPLITS:
            (folder / split).mkdir()
            history = ParquetWriter(folder / split / HISTORY, HISTORY_SCHEMA)
            histories.append(stack.enter_context(history))
            behaviour = ParquetWriter(folder / split / BEHAVIOURS, BEHAVIOURS_SCHEMA)
            behaviours.append(stack.enter_context(behaviour))

        # Impressions are numbered in the order in which they are written, so their ids depend on
        # `users_at_once`.
        for users, lengths in chunks(rows, seed, _LENGTHS, users_at_once):
            clicks = _Clicks.of(catalogue, seed, users, lengths)

            # The history of a split covers the three weeks before its week of impressions.
            for number, begin in enumerate((_TRAIN, _VALIDATION)):
                histories[number].write_table(_history(clicks, begin - _HISTORY_SPAN, begin))
                shown = _behaviours(clicks, catalogue, begin, begin + _WEEK, impressions)
                behaviours[number].write_table(shown)
                impressions += len(shown)

            done += int(lengths.sum())
            report(f"generating {done:,} of {rows:,} rows")


@dataclass(frozen=True)
class _Clicks:
    """Clicks of some users, sorted by user and time; arrays have one element for each click.

    Attributes:
        user: The number of the user.
        user_key: Random bits of the user.
        key: Random bits of the click.
        time: Seconds since 1970, strictly rising for each user. The last click of a user is in the
            week of validation.
        session: The number of the session, from 0 for each user.
        article: The id of the article.
    """

    user: np.ndarray
    user_key: np.ndarray
    key: np.ndarray
    time: np.ndarray
    session: np.ndarray
    article: np.ndarray

    @classmethod
    def of(
        cls, catalogue: Catalogue, seed: int, users: np.ndarray, lengths: np.ndarray
    ) -> "_Clicks":
        """Makes the clicks of some users.

        Args:
            catalogue: The catalogue.
            seed: The seed of all draws.
            users: The numbers of the users.
            lengths: The number of clicks of each user.
        """
        made = make_histories(catalogue, seed, users, lengths)
        keys = user_keys(seed, users)
        start = np.cumsum(lengths) - lengths
        step = np.arange(len(made.time)) - np.repeat(start, lengths)

        # The times of a user are stretched so that they run from a time in the first week to a time
        # in the last week. One second for each click is left at the end, as `step` is added below.
        first = int(_START.timestamp()) + unit(mix(keys)) * _WEEK
        last = _VALIDATION + unit(mix(mix(keys))) * (_WEEK - _LENGTHS.longest - 1)
        origin = made.time[start]
        whole = made.time[start + lengths - 1] - origin
        part = np.where(np.repeat(whole, lengths) > 0, made.time - np.repeat(origin, lengths), 1)
        part = part / np.maximum(np.repeat(whole, lengths), 1)
        time = np.repeat(first, lengths) + part * np.repeat(last - first, lengths)

        user_key = np.repeat(keys, lengths)
        return cls(
            user=np.repeat(users, lengths),
            user_key=user_key,
            key=mix(user_key + step.astype(np.uint64)),
            time=time.astype(np.int64) + step,
            session=pauses(made.time, lengths, 30 * _MINUTE_MS),
            article=article_ids(catalogue)[made.position],
        )

    def between(self, begin: int, end: int) -> "_Clicks":
        """Returns the clicks at times in [begin, end)."""
        return self.only((begin <= self.time) & (self.time < end))

    def only(self, selection: np.ndarray) -> "_Clicks":
        """Returns the clicks that a mask or indices select."""
        return _Clicks(**{name: values[selection] for name, values in vars(self).items()})


def _history(clicks: _Clicks, begin: int, end: int) -> pa.Table:
    """Returns one row for each user with a click in the window, with lists of the clicks."""
    # Clicks are sorted by user, so the lists of a user begin at the user's first click.
    listed = clicks.between(begin, end)
    users, first = np.unique(listed.user, return_index=True)
    offsets = pa.array(np.append(first, len(listed.user)), pa.int64())
    scrolled, read = _reading(listed.key)

    lists = (_times(listed.time), scrolled, pa.array(listed.article, pa.int32()), read)
    columns = [
        pa.array(users, pa.uint32()),
        *(pa.LargeListArray.from_arrays(offsets, values) for values in lists),
    ]
    return pa.table(columns, HISTORY_SCHEMA)


def _behaviours(
    clicks: _Clicks, catalogue: Catalogue, begin: int, end: int, numbered: int
) -> pa.Table:
    """Returns impressions with their clicks; some impressions have two clicks.

    Args:
        clicks: The clicks of some users.
        catalogue: The catalogue.
        begin: The beginning of the week.
        end: The end of the week.
        numbered: The number of impressions that already have an id.
    """
    made = clicks.between(begin, end)

    # `opens` says whether a click is the first of its impression. No impression has three clicks.
    opens = np.ones(len(made.user), bool)
    together = (made.user[1:] == made.user[:-1]) & (made.article[1:] != made.article[:-1])
    opens[1:] = ~(together & (unit(made.key[1:]) < _TWO_CLICKS))
    opens[1:] |= ~opens[:-1]
    first = np.flatnonzero(opens)
    clicked = pa.LargeListArray.from_arrays(
        pa.array(np.append(first, len(opens)), pa.int64()), pa.array(made.article, pa.int32())
    )

    shown = made.only(first)
    scrolled, read = _reading(shown.key)
    # An impression on the front page does not belong to an article.
    on_front_page = pa.array(unit(mix(shown.key + np.uint64(1))) < 0.7)
    described = _users(shown)
    columns = {
        "impression_id": pa.array(numbered + 1 + np.arange(len(first)), pa.uint32()),
        "article_id": pa.compute.if_else(on_front_page, None, pa.array(shown.article, pa.int32())),
        "impression_time": _times(shown.time),
        "read_time": read,
        "scroll_percentage": scrolled,
        "article_ids_inview": _inview(catalogue, shown, clicked),
        "article_ids_clicked": clicked,
        "user_id": pa.array(shown.user, pa.uint32()),
        "session_id": pa.array(
            mix(shown.user_key + shown.session.astype(np.uint64)) >> np.uint64(32), pa.uint32()
        ),
        "next_read_time": read,
        "next_scroll_percentage": scrolled,
        **described,
    }
    return pa.table([columns[name] for name in BEHAVIOURS_SCHEMA.names], BEHAVIOURS_SCHEMA)


def _inview(catalogue: Catalogue, shown: _Clicks, clicked: pa.LargeListArray) -> pa.LargeListArray:
    """Returns the articles that each impression shows, 5 to 15 of them.

    The clicked articles come first. The others are drawn by popularity.
    """
    # One or two articles are clicked, so together there are at least 5.
    others = 4 + (unit(mix(shown.key + np.uint64(2))) * (_MOST_INVIEW - 5)).astype(np.int64)
    draw = mix(np.repeat(shown.key, others) ^ mix(np.arange(others.sum()).astype(np.uint64)))
    drawn = article_ids(catalogue)[catalogue.pick(0, len(catalogue.leaf), unit(draw))]

    # A stable sort by impression keeps the clicked articles before the drawn ones.
    counts = clicked.value_lengths().to_numpy()
    impression = np.concatenate(
        [np.repeat(np.arange(len(counts)), counts), np.repeat(np.arange(len(counts)), others)]
    )
    order = np.argsort(impression, kind="stable")
    articles_shown = np.concatenate([clicked.flatten().to_numpy(), drawn])[order]
    offsets = np.concatenate([[0], np.cumsum(counts + others)])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.array(articles_shown, pa.int32())
    )


def _users(shown: _Clicks) -> dict[str, pa.Array]:
    """Returns attributes of each impression's user, most of them known for only a few users."""

    def drawn(stream: int, values: range, known: float) -> pa.Array:
        """Draws a value for each user; it is null except for a share `known` of the users."""
        bits = mix(shown.user_key + np.uint64(stream))
        chosen = np.array(values)[(unit(mix(bits)) * len(values)).astype(np.int64)]
        return pa.array(chosen, pa.int8(), mask=unit(bits) >= known)

    # A user has a usual device, but uses another device in some impressions.
    usual = 1 + (unit(mix(shown.user_key + np.uint64(11))) ** 0.7 * 3).astype(np.int8)
    other = unit(mix(shown.key + np.uint64(12))) < 0.1
    return {
        "device_type": pa.array(np.where(other, 1 + usual % 3, usual), pa.int8()),
        "is_sso_user": pa.array(unit(mix(shown.user_key + np.uint64(13))) < 0.3),
        "gender": drawn(14, range(2), 0.07),
        "postcode": drawn(15, range(5), 0.02),
        "age": drawn(16, range(20, 90, 10), 0.03),
        "is_subscriber": pa.array(unit(mix(shown.user_key + np.uint64(17))) < 0.05),
    }


def _reading(key: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Returns how far each page was scrolled (%, often null) and how long it was read (s)."""
    part = unit(mix(key + np.uint64(3)))
    scrolled = pa.array(
        np.round(100 * part), pa.float32(), mask=unit(mix(key + np.uint64(4))) < 0.4
    )
    return scrolled, pa.array(np.round(1_000 * part**4), pa.float32())


def _times(seconds: np.ndarray) -> pa.Array:
    return pa.array(seconds * 1_000_000, pa.timestamp("us"))
