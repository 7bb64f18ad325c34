"""A data set that grew says what one of all its raw files together says, but for the numbers of rows and groups."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import growing_shop
import pytest
from growing_shop import content, write
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from prepared_log import item_ids, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.build import sequence_files
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.engine import on_duckdb
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest, verify

SHOP = str(growing_shop.FILE)
HOUR = 3_600_000
HELD = "held/interactions.parquet"


def _append(raw, out, **more):
    return append(raw, out, Given(dataset=SHOP), **more).manifest


def _prepare(raw, out, *, keep_short=True, split=SplitBy(), options=()):
    return prepare(
        Settings(SHOP, raw, horizon=1, options=options, split=split, keep_short=keep_short), out
    )


@st.composite
def logs(draw):
    """Rows of a log, some of them twice, in three parts; a part is in order of time or in none."""
    users = st.sampled_from(
        ["ann", "bob", "Åsa", "zoë", *(f"user {number}" for number in range(8))]
    )
    row = st.tuples(
        users,
        st.integers(1, 15),
        st.integers(18, 25).map(lambda hour: hour * HOUR),
        st.integers(0, 2),
    )
    rows = draw(st.lists(row, min_size=40, max_size=90))
    rows += draw(st.lists(st.sampled_from(rows), max_size=10))
    if draw(st.booleans()):
        rows.sort(key=lambda row: row[2])
    first = draw(st.integers(25, len(rows) - 2))
    second = draw(st.integers(first + 1, len(rows) - 1))
    return [rows[:first], rows[first:second], rows[second:]]


@pytest.mark.slow
@given(
    logs(),
    st.sampled_from(
        [SplitBy(), SplitBy("time", "1970-01-01T20:00", "1970-01-01T23:00"), SplitBy("time")]
    ),
    st.sampled_from([(), ("min_history=4", "met=true")]),
    st.booleans(),
)
@settings(max_examples=4, deadline=None)
def test_a_log_that_is_cut_anywhere_comes_to_the_same(parts, split, options, small):
    # The same raw files again are the same command again, which appends nothing.
    assume(all(parts.count(part) == 1 for part in parts))
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        if small:  # ranges of some ten interactions, files of a few users
            patch.setattr(on_duckdb, "_BYTES_A_ROW", 2 * 10**9 // 12)
            patch.setattr(sequence_files, "USERS_A_FILE", 16)
            patch.setattr(sequence_files, "users_a_row_group", lambda _: 2)
        raws = [
            write(folder / f"raw {number}", part, more_items=[3])
            for number, part in enumerate(parts)
        ]
        whole = write(folder / "raw", [row for part in parts for row in part], more_items=[3])
        grown = folder / "grown"
        try:
            _prepare(raws[0], grown, options=options, split=split)
        except UserError:  # nobody is left, or a part of time is empty
            return
        for raw in raws[1:]:
            before = read_manifest(grown)
            ids, users = item_ids(grown), PreparedData(grown).user_texts().to_pylist()
            now = _append(raw, grown)
            assert now.grown[-1] == {
                "prepared_sha256": before.prepared_sha256,
                "items": len(ids),
                "users": len(users),
            }
            _check_numbers(grown, before, ids, users)
        if split.by == "time":
            split = SplitBy("time", *(_iso(time) for time in now.settings["split_times"]))
        expected = _prepare(whole, folder / "together", options=options, split=split)
        assert content(grown) == content(folder / "together")
        _check_repairs(parts, now.counts["repaired"], expected.counts["repaired"])
        assert [path.name for path in folder.glob(".*")] == []


def _iso(time: int) -> str:
    return f"1970-01-{1 + time // (24 * HOUR):02}T{time // HOUR % 24:02}:00"


def _check_numbers(folder, before, ids, users):
    """Rows, users and groups that were there have the numbers they had; all files are as the manifest says."""
    verify(folder)
    now = read_manifest(folder)
    assert {row: item for row, item in item_ids(folder).items() if row < len(ids)} == ids
    assert PreparedData(folder).user_texts().to_pylist()[: len(users)] == users
    for prior in before.priors:
        assert now.prior(prior.name).groups[: len(prior.groups)] == prior.groups
    short = sum(
        number for reason, number in now.counts["dropped"].items() if reason.startswith("users ")
    )
    assert (folder / HELD).exists() == bool(short)


def _check_repairs(parts, grown, together):
    """A repair of what is there stays counted where something new comes between the two; no other difference."""
    assert all(grown[what] >= together[what] for what in together)
    if all(part == sorted(part, key=lambda row: row[2]) for part in parts[:-1]):
        assert grown == together


ROWS = [
    (f"user {number % 7}", 1 + number * number % 11, number * HOUR, number % 3)
    for number in range(40)
]


@pytest.fixture
def shop(tmp_path):
    """A data set of `ROWS`, one of whose users is too short."""
    raw = write(tmp_path / "raw", [*ROWS, ("short", 12, 0, 0)])
    _prepare(raw, tmp_path / "data")
    return tmp_path / "data"


def test_a_user_who_was_too_short_comes_in_with_all_that_was_kept(shop, tmp_path):
    new = [("short", 2, 5, 1), ("short", 3, 4, 1), ("user 1", 2, 99 * HOUR, 0)]
    assert "short" not in sequences(shop)
    made = _append(write(tmp_path / "new", new), shop)
    assert sequences(shop)["short"] == [(12, 0, "view"), (3, 4, "like"), (2, 5, "like")]
    assert sequences(shop)["user 1"][-1] == (2, 99 * HOUR, "view")
    assert made.counts["dropped"] == {
        "users of at most twice the horizon": 0,
        "their interactions": 0,
    }
    assert not (shop / "held").exists()


def test_what_is_known_already_is_counted_as_repeated(shop, tmp_path):
    made = _append(write(tmp_path / "new", [*ROWS[20:], ("user 1", 2, 99 * HOUR, 0)]), shop)
    assert made.counts["dropped"]["duplicate interactions"] == 20
    assert made.counts["interactions"] == 41


def test_the_same_raw_files_are_known_again(shop, tmp_path):
    new = write(tmp_path / "new", [("user 1", 2, 99 * HOUR, 0)])
    made, said = _append(new, shop), []
    for raw in (new, tmp_path / "raw"):
        assert _append(raw, shop, report=said.append) == made == read_manifest(shop)
    assert said == [f"{shop} already holds these raw files"] * 2


def test_labels_that_are_there_stay_and_groups_of_new_ones_come_last(shop, tmp_path):
    before = read_manifest(shop)
    new = write(
        tmp_path / "new", [("new", item, item * HOUR, 0) for item in (2, 21, 22, 23, 24, 25, 26)]
    )
    growing_shop.relabel(
        new / "items.parquet", "kind", {2: "other", **dict.fromkeys((22, 23, 25), "large")}
    )
    now, labels = _append(new, shop), content(shop)["labels"]["kind"]
    kinds = now.prior("kind")
    assert kinds.groups == [*before.prior("kind").groups, "large"]
    assert kinds.sizes[-1] == 3 > min(kinds.sizes), "the largest group would be first"
    assert labels[2] == {"kind 2"}
    assert labels[22] == {"large"}
    assert labels[24] == {"no kind"}


@pytest.mark.slow
def test_without_times_new_interactions_come_after_the_others(tmp_path):
    def placed(rows):
        place = Counter()
        found = []
        for user, item in rows:
            found.append((user, item, place[user], 0))
            place[user] += 1
        return found

    old = [("ann", 1), ("bob", 2), ("ann", 3), ("ann", 1), ("bob", 4), ("bob", 2), ("eve", 1)]
    new = [("bob", 2), ("eve", 5), ("ann", 1), ("eve", 6), ("bob", 7)]
    _prepare(write(tmp_path / "old", placed(old)), tmp_path / "data", options=("times=false",))
    _append(write(tmp_path / "new", placed(new)), tmp_path / "data")
    _prepare(
        write(tmp_path / "raw", placed([*old, *new])),
        tmp_path / "together",
        options=("times=false",),
    )
    assert content(tmp_path / "data") == content(tmp_path / "together")


@pytest.mark.slow
def test_a_file_of_which_nobody_did_anything_new_is_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_files, "USERS_A_FILE", 4)
    monkeypatch.setattr(sequence_files, "users_a_row_group", lambda _: 2)
    _prepare(write(tmp_path / "raw", ROWS), tmp_path / "data")
    files = [tmp_path / "data" / sequence_files.path_of(part) for part in (0, 1, 2)]
    before = [file.stat().st_ino for file in files[:2]]
    new = [("user 1", 2, 99 * HOUR, 0), *(("a user", item, item, 0) for item in (1, 2, 3))]
    _append(write(tmp_path / "new", new), tmp_path / "data")
    after = [file.stat().st_ino for file in files[:2]]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True]
    assert PreparedData(tmp_path / "data").user_texts().to_pylist()[-1] == "a user"
    assert files[2].exists()
