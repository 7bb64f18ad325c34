"""Every policy gives each item the row it promises; shared rows stand among the others at equal distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.config import parse
from torchrec_priors.embedding.item_rows import ItemRows, hashes
from torchrec_priors.errors import UserError
from torchrec_priors.settings.embedding import UnseenConfig

POLICIES = st.sampled_from(["dropped", "shared", "hashed"])


@st.composite
def cases(draw):
    seen = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=60)))
    seen[draw(st.integers(0, len(seen) - 1))] = True
    unseen, later = draw(POLICIES), draw(st.integers(0, 9))
    config = UnseenConfig(unseen, 2, draw(st.integers(1, 12)) if unseen == "hashed" else 0)
    config.check()
    return config, seen, len(seen) + later


@settings(deadline=None, max_examples=150)
@given(cases())
def test_the_map_is_that_of_its_definition(case):
    config, seen, items = case
    rows = ItemRows.of(config, seen, items)
    shared = {"dropped": 0, "shared": 1, "hashed": config.hashed_rows}[config.unseen]
    assert rows.rows == seen.sum() + shared
    row = rows.row_I if rows.row_I is not None else np.arange(items)
    own = row[: len(seen)][seen]
    assert (np.diff(own) > 0).all(), "rows of their own keep the items' order"
    others = np.concatenate([row[: len(seen)][~seen], row[len(seen) :]])
    assert not set(own) & set(others)
    if config.unseen == "dropped":
        assert (others == -1).all()
    else:
        free = np.setdiff1d(np.arange(rows.rows), own)
        assert len(free) == shared
        assert set(others) <= set(free)
        gaps = np.diff([-1, *free, rows.rows])
        assert gaps[1:-1].max(initial=0) - gaps[1:-1].min(initial=rows.rows) <= 1, (
            "at equal distances"
        )
    if config.unseen == "hashed":
        unseen = np.setdiff1d(np.arange(items), np.flatnonzero(seen))
        assert row[unseen].tolist() == free[hashes(unseen, shared)].tolist()


@settings(deadline=None, max_examples=100)
@given(cases(), st.integers(1, 5))
def test_what_ranks_hold_is_every_item_with_a_row_once(case, ranks):
    config, seen, items = case
    rows = ItemRows.of(config, seen, items)
    block = -(-rows.rows // ranks)
    held, retrieved = [], []
    for rank in range(ranks):
        first, last = min(rows.rows, rank * block), min(rows.rows, (rank + 1) * block)
        own = rows.held(first, last)
        assert (np.diff(own.item_C) > 0).all()
        assert ((own.row_C >= first) & (own.row_C < last)).all()
        assert own.row_C.tolist() == rows.to_ids(own.item_C).tolist()
        held += own.item_C.tolist()
        retrieved += rows.retrieved(first, last).item_C.tolist()
    known = np.arange(items) if rows.has_row_I is None else np.flatnonzero(rows.has_row_I)
    assert sorted(held) == known.tolist()
    expected = np.arange(items) if config.unseen == "hashed" else np.flatnonzero(seen)
    assert sorted(retrieved) == expected.tolist()
    value = np.arange(items) + 1
    assert rows.per_row(value).sum() == value[known].sum()


@settings(deadline=None, max_examples=50)
@given(cases(), st.integers(0, 9))
def test_items_that_come_later_change_no_row(case, more):
    config, seen, items = case
    now, later = ItemRows.of(config, seen, items), ItemRows.of(config, seen, items + more)
    assert now.rows == later.rows
    before = np.arange(items) if now.row_I is None else now.row_I
    assert later.to_ids(np.arange(items)).tolist() == before.tolist()


def test_by_default_every_item_has_the_row_of_its_number():
    rows = ItemRows.of(UnseenConfig(), None, 5)
    assert (rows.rows, rows.has_row_I, rows.own_row_I, rows.recommendable_I) == (
        5,
        None,
        None,
        None,
    )
    grown = ItemRows.of(UnseenConfig(), np.ones(5, bool), 7)
    assert grown.rows == 5
    assert grown.row_I.tolist() == [0, 1, 2, 3, 4, -1, -1]


def test_hashes_are_even():
    counts = np.bincount(hashes(np.arange(100_000), 10), minlength=10)
    assert counts.min() > 9_500


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"min_frequency": 0}, "min_frequency = 0 must be at least 1"),
        ({"unseen": "shared"}, "'shared' needs embedding.min_frequency >= 2"),
        ({"unseen": "hashed", "hashed_rows": 9}, "'hashed' needs embedding.min_frequency >= 2"),
        ({"unseen": "hashed", "min_frequency": 2}, "needs embedding.hashed_rows"),
        ({"unseen": "managed"}, "embedding.rows = 0 must be a multiple of embedding.blocks = 24"),
        ({"unseen": "managed", "rows": 25}, "as 48"),
        ({"unseen": "managed", "rows": 24}, "as 48"),
        ({"unseen": "managed", "rows": 4096, "blocks": 2048}, "blocks = 2048 must be at most 1024"),
        (
            {"unseen": "managed", "rows": 48, "eviction_interval": 0},
            "eviction_interval = 0 must be at least 1",
        ),
        ({"unseen": "managed", "rows": 48, "eviction": "oldest"}, "embedding.eviction"),
        ({"unseen": "hashed", "min_frequency": 2, "hashed_rows": -1}, "must not be negative"),
        ({"unseen": "forgotten"}, "embedding.unseen"),
    ],
)
def test_mistakes_are_one_line(changes, says):
    with pytest.raises(UserError) as caught:
        parse({"embedding": changes})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_nobody_reads_are_named():
    assert UnseenConfig(min_frequency=3, rows=9).without_effect() == [
        "embedding.min_frequency",
        "embedding.rows",
    ]
    assert UnseenConfig("hashed", 3, 4).without_effect() == []
    assert UnseenConfig("managed", rows=48, blocks=8, eviction="lru").without_effect() == []


def test_a_catalogue_that_nobody_met_is_refused():
    with pytest.raises(UserError, match="min_frequency = 3: no item has this many"):
        ItemRows.of(UnseenConfig("dropped", 3), np.zeros(4, bool), 4)
