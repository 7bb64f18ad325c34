"""The made-up marketplace in the files of EB-NeRD: articles, and behaviours and histories of two splits.

Behaviour is the marketplace's (`histories`), in the five weeks of EB-NeRD's two splits, with histories as long as
EB-NeRD's: 150 clicks on average, 5 % of users with 512 or more. A user's clicks are in both histories' windows and in
both weeks of impressions, as in the published files: what `datasets/ebnerd.py` counts once is ROWS interactions.
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

_VERSION = 1  # of what a seed makes
_LENGTHS = Lengths(median=80.0, spread=1.1, shortest=5, longest=1_800)
_USERS_AT_ONCE = 2_048
_START = datetime(2023, 4, 27, 7, tzinfo=UTC)
_TRAIN, _VALIDATION, _END = (
    int((_START + timedelta(weeks=n)).timestamp()) for n in (3, 4, 5)
)  # weeks of impressions
_WEEK = 7 * 86_400
_MINUTE_MS = 60_000
_TWO_CLICKS = 0.02  # of clicks come in one impression with the one before
_MOST_INVIEW = 15


def generate(
    raw: Path,
    rows: int,
    seed: int,
    report: Report = lambda _: None,
    *,
    users_at_once: int = _USERS_AT_ONCE,
) -> None:
    """Makes `raw` with exactly `rows` clicks, however often they are told; does nothing where it already holds that.

    Args:
        users_at_once: users in memory at a time; the clicks do not depend on it.

    Raises:
        UserError: too few rows, a seed out of range, or a folder that holds something else.
    """

    def write(folder: Path) -> None:
        catalogue = Catalogue.make(items_for(rows), seed)
        write_table(articles(catalogue, seed), folder / ARTICLES)
        done = impressions = 0
        with ExitStack() as stack:
            files = []
            for split in SPLITS:
                (folder / split).mkdir()
                for name, schema in ((HISTORY, HISTORY_SCHEMA), (BEHAVIOURS, BEHAVIOURS_SCHEMA)):
                    writer = ParquetWriter(folder / split / name, schema)
                    files.append(stack.enter_context(writer))
            for users, lengths in chunks(rows, seed, _LENGTHS, users_at_once):
                clicks = _Clicks.of(catalogue, seed, users, lengths)
                for number, begin in enumerate((_TRAIN, _VALIDATION)):
                    files[2 * number].write_table(_history(clicks, begin - 3 * _WEEK, begin))
                    shown = _behaviours(clicks, catalogue, begin, begin + _WEEK, impressions)
                    files[2 * number + 1].write_table(shown)
                    impressions += len(shown)
                done += int(lengths.sum())
                report(f"generating {done:,} of {rows:,} rows")

    make_folder(raw, "ebnerd", _VERSION, rows, seed, report, write)


@dataclass(frozen=True)
class _Clicks:
    """Clicks of some users, in order of users and times; one array element a click.

    Attributes:
        time: seconds since 1970, rising strictly within a user, the last in the week of validation.
        key: random bits of each click.
        user_key: random bits of each click's user.
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
        made = make_histories(catalogue, seed, users, lengths)
        keys = user_keys(seed, users)
        start = np.cumsum(lengths) - lengths
        step = np.arange(len(made.time)) - np.repeat(start, lengths)
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
        inside = (begin <= self.time) & (self.time < end)
        return _Clicks(**{name: values[inside] for name, values in vars(self).items()})


def _history(clicks: _Clicks, begin: int, end: int) -> pa.Table:
    told = clicks.between(begin, end)
    users, first = np.unique(told.user, return_index=True)
    offsets = pa.array(np.append(first, len(told.user)), pa.int64())
    scrolled, read = _reading(told.key)
    lists = (_times(told.time), scrolled, pa.array(told.article, pa.int32()), read)
    columns = [
        pa.array(users, pa.uint32()),
        *(pa.LargeListArray.from_arrays(offsets, values) for values in lists),
    ]
    return pa.table(columns, HISTORY_SCHEMA)


def _behaviours(
    clicks: _Clicks, catalogue: Catalogue, begin: int, end: int, numbered: int
) -> pa.Table:
    """Impressions with their clicks, of which some have two.

    Args:
        numbered: impressions that have a number already.
    """
    made = clicks.between(begin, end)
    opens = np.ones(len(made.user), bool)
    together = (made.user[1:] == made.user[:-1]) & (made.article[1:] != made.article[:-1])
    opens[1:] = ~(together & (unit(made.key[1:]) < _TWO_CLICKS))
    opens[1:] |= ~opens[:-1]  # three never come together
    first = np.flatnonzero(opens)
    clicked = pa.LargeListArray.from_arrays(
        pa.array(np.append(first, len(opens)), pa.int64()), pa.array(made.article, pa.int32())
    )
    shown = _Clicks(**{name: values[first] for name, values in vars(made).items()})
    scrolled, read = _reading(shown.key)
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
    """5 to 15 articles an impression, drawn by popularity, those that are clicked first."""
    others = 4 + (unit(mix(shown.key + np.uint64(2))) * (_MOST_INVIEW - 5)).astype(np.int64)
    draw = mix(np.repeat(shown.key, others) ^ mix(np.arange(others.sum()).astype(np.uint64)))
    drawn = article_ids(catalogue)[catalogue.pick(0, len(catalogue.leaf), unit(draw))]
    counts = clicked.value_lengths().to_numpy()
    of = np.concatenate(
        [np.repeat(np.arange(len(counts)), counts), np.repeat(np.arange(len(counts)), others)]
    )
    order = np.argsort(of, kind="stable")
    articles_shown = np.concatenate([clicked.flatten().to_numpy(), drawn])[order]
    offsets = np.concatenate([[0], np.cumsum(counts + others)])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.array(articles_shown, pa.int32())
    )


def _users(shown: _Clicks) -> dict[str, pa.Array]:
    """What is known of each impression's user; most of it of few."""

    def drawn(stream: int, values: range, known: float) -> pa.Array:
        bits = mix(shown.user_key + np.uint64(stream))
        chosen = np.array(values)[(unit(mix(bits)) * len(values)).astype(np.int64)]
        return pa.array(chosen, pa.int8(), mask=unit(bits) >= known)

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
    """(how far a page was scrolled in percent, seconds it was read); the former is often unknown."""
    part = unit(mix(key + np.uint64(3)))
    scrolled = pa.array(
        np.round(100 * part), pa.float32(), mask=unit(mix(key + np.uint64(4))) < 0.4
    )
    return scrolled, pa.array(np.round(1_000 * part**4), pa.float32())


def _times(seconds: np.ndarray) -> pa.Array:
    return pa.array(seconds * 1_000_000, pa.timestamp("us"))
