"""A wrong corpus is one line that names the file, the table, the column and what is wrong with it."""

import re
from dataclasses import replace
from pathlib import Path

import ibis
import pandas as pd
import pyarrow as pa
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.check import check
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.prepare import Settings, prepare

FILE = Path("somewhere/shop.py")
LOG = pa.table(
    {
        "user_id": ["a"],
        "item_id": [10],
        "timestamp": [1],
        "order": [1],
        "event": pa.array([0], pa.int8()),
    }
)
ITEMS = pa.table({"item_id": [10], "title": ["Tea"]})
KINDS = pa.table({"item_id": [10], "label": ["food"]})
TEAMS = pa.table({"user_id": ["a"], "label": ["red"]})


def _with(table: pa.Table, **columns) -> ibis.Table:
    """The table with columns of other values."""
    return ibis.memtable(
        pa.table({**{name: table[name] for name in table.column_names}, **columns})
    )


def _labels(name: str, table) -> list[Labels]:
    return [Labels(name, table, "other")]


SOUND = Corpus(
    name="shop",
    interactions=ibis.memtable(LOG),
    items=ibis.memtable(ITEMS),
    category_prior="kind",
    default_horizon=1,
    events=("buy",),
    event_prior="action",
    item_priors=_labels("kind", ibis.memtable(KINDS)),
    user_priors=_labels("team", ibis.memtable(TEAMS)),
)

_WRONG = {
    "an Arrow table": (
        {"interactions": LOG},
        "interactions is a pyarrow Table, not an Ibis table: wrap it in ibis.memtab",
    ),
    "a data frame": (
        {"items": pd.DataFrame({"a": [1]})},
        "items is a pandas DataFrame, not an Ibis table: wrap it in",
    ),
    "Arrow labels": (
        {"item_priors": _labels("kind", KINDS)},
        "the table of prior 'kind' is a pyarrow Table",
    ),
    "another name": (
        {
            "interactions": ibis.memtable(
                LOG.rename_columns(["user_id", "item_id", "timestamps", "order", "event"])
            )
        },
        "interactions has no column 'timestamp': did you mean 'timestamps'?",
    ),
    "no order": (
        {"interactions": ibis.memtable(LOG.drop_columns(["order"]))},
        "interactions has no column 'order': it has event, item_id, timestamp, user_id",
    ),
    "no event": (
        {"interactions": ibis.memtable(LOG.drop_columns(["event"]))},
        "interactions has no column 'event'",
    ),
    "no title": (
        {"items": ibis.memtable(ITEMS.drop_columns(["title"]))},
        "items has no column 'title'",
    ),
    "no label": (
        {
            "item_priors": _labels(
                "kind", ibis.memtable(KINDS.rename_columns(["item_id", "labels"]))
            )
        },
        "the table of prior 'kind' has no column 'label': did you mean 'labels'?",
    ),
    "labels of items": (
        {"user_priors": _labels("team", ibis.memtable(KINDS))},
        "the table of prior 'team' has no column 'user_id': did you mean 'item_id'?",
    ),
    "times": (
        {"interactions": _with(LOG, timestamp=["2023-05-15"])},
        "'timestamp' of interactions is string where milliseconds since 1970 as integers, or a timestamp, is expected",
    ),
    "float order": (
        {"interactions": _with(LOG, order=[1.5])},
        "column 'order' of interactions is float64 where integers is",
    ),
    "event names": (
        {"interactions": _with(LOG, event=["buy"])},
        "column 'event' of interactions is string where integers (places in `events`) is expected",
    ),
    "numbers as labels": (
        {"item_priors": _labels("kind", _with(KINDS, label=[3]))},
        "column 'label' of the table of prior 'kind' is int64 where text is expected",
    ),
    "other item ids": (
        {"items": _with(ITEMS, item_id=["10"])},
        "item_id is integer in interactions and text in items: cast one",
    ),
    "other labelled ids": (
        {"item_priors": _labels("kind", _with(KINDS, item_id=["10"]))},
        "item_id is integer in interactions and text in the table of prior 'kind': cast one",
    ),
    "other user ids": (
        {"user_priors": _labels("team", _with(TEAMS, user_id=[1]))},
        "user_id is text in interactions and integer in the table of prior 'team': cast one",
    ),
    "a kind's name": (
        {"event_prior": "temporal"},
        "prior 'temporal' is named like a kind of prior (all, interests, random, temporal)",
    ),
    "a folder's name": (
        {"item_priors": _labels("a/b", ibis.memtable(KINDS)), "category_prior": "a/b"},
        "prior 'a/b' cannot be the name of a file (it has '/'): rename it",
    ),
}


@pytest.mark.parametrize(("changes", "says"), _WRONG.values(), ids=_WRONG)
def test_a_wrong_corpus_is_told_in_one_line(changes, says):
    assert check(SOUND, FILE) is SOUND
    with pytest.raises(UserError, match=f"^shop\\.py: .*{re.escape(says)}") as caught:
        check(replace(SOUND, **changes), FILE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("loaded", "says"), [(None, "nothing"), (LOG, "a Table"), ({}, "a dict")])
def test_what_is_no_corpus_is_named(loaded, says):
    with pytest.raises(
        UserError, match=rf"shop\.py: load returned {says} where a Corpus is expected"
    ):
        check(loaded, FILE)


def test_integers_of_any_width_are_one_kind():
    narrow = _with(ITEMS, item_id=pa.array([10], pa.int16()))
    check(
        replace(SOUND, items=narrow, interactions=_with(LOG, order=pa.array([1], pa.int32()))), FILE
    )


def test_a_corpus_file_is_checked_before_anything_is_made(tmp_path):
    (tmp_path / "shop.py").write_text("def load(raw, bad_rows):\n    pass\n")
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match=r"shop\.py: load returned nothing"):
        prepare(Settings(str(tmp_path / "shop.py"), tmp_path / "raw"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
