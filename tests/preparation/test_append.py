"""A data set that was appended to says what one of all raw files together says, but for the numbers of rows and groups."""

from pathlib import Path
from tempfile import TemporaryDirectory

import growing_shop
import pyarrow.parquet as pq
import pytest
from growing_shop import content, write
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_log import item_ids

from torchrec_priors.data.manifest import read_manifest, verify
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.preparation import sequence_files
from torchrec_priors.preparation.append import append
from torchrec_priors.preparation.append_settings import Given
from torchrec_priors.preparation.engine import on_duckdb
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.split import SplitBy

SHOP = str(growing_shop.FILE)
HOUR = 3_600_000
IN_TIME = SplitBy("time", "1970-01-01T20:00", "1970-01-01T30:00".replace("30", "23"))


def _append(raw, out, **more):
    return append(raw, out, Given(dataset=SHOP), **more)


@st.composite
def logs(draw):
    """Rows of a log, some of them twice, and two places where it is cut; in order of time or in none."""
    users = st.sampled_from(["ann", "bob", "Åsa", "zoë", *(f"user {number}" for number in range(8))])
    row = st.tuples(users, st.integers(1, 15), st.integers(18, 25).map(lambda hour: hour * HOUR), st.integers(0, 2))
    rows = draw(st.lists(row, min_size=30, max_size=90))
    rows += draw(st.lists(st.sampled_from(rows), max_size=10))
    if draw(st.booleans()):
        rows.sort(key=lambda row: row[2])
    first = draw(st.integers(20, len(rows) - 2))
    return rows, first, draw(st.integers(first + 1, len(rows)))


@given(
    logs(),
    st.sampled_from([SplitBy(), IN_TIME, SplitBy("time")]),
    st.sampled_from([(), ("min_history=4", "met=true")]),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_any_log_that_is_cut_anywhere_comes_to_the_same(cut, split, options, small):
    rows, first, second = cut
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        if small:  # ranges of some ten interactions, files of a few users
            patch.setattr(on_duckdb, "_BYTES_A_ROW", 2 * 10**9 // 12)
            patch.setattr(sequence_files, "USERS_A_FILE", 16)
            patch.setattr(sequence_files, "users_a_row_group", lambda _: 2)
        parts = [rows[:first], rows[first:second], rows[second:]]
        raws = [write(folder / f"raw {number}", part, more_items=[3]) for number, part in enumerate(parts) if part]
        whole = write(folder / "raw", rows, more_items=[3])
        made = Settings(SHOP, raws[0], horizon=1, options=options, split=split, keep_short=True)
        try:
            prepare(made, folder / "grown")
        except ValueError as error:
            assert "no user" in str(error) or "leave a part empty" in str(error)
            return
        states = [folder / "grown"]
        for raw in raws[1:]:
            before = read_manifest(states[0])
            old = item_ids(folder / "grown"), PreparedData(folder / "grown").user_texts().to_pylist()
            grown = _append(raw, folder / "grown").manifest
            _check_numbers(folder / "grown", before, *old)
            assert grown.grown[-1]["prepared_sha256"] == before.prepared_sha256
        times = read_manifest(folder / "grown").settings.get("split_times")
        if times:
            split = SplitBy("time", *(_iso(time) for time in times))
        together = Settings(SHOP, whole, horizon=1, options=options, split=split, keep_short=True)
        expected = prepare(together, folder / "together")
        assert content(folder / "grown") == content(folder / "together")
        repaired = grown.counts["repaired"], expected.counts["repaired"]
        assert all(repaired[0][what] >= repaired[1][what] for what in repaired[1])
        if parts[0] == sorted(parts[0], key=lambda row: row[2]) and len(raws) == 2:
            assert repaired[0] == repaired[1]
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
    short = sum(number for reason, number in now.counts["dropped"].items() if reason.startswith("users "))
    held = folder / "held/interactions.parquet"
    assert held.exists() == bool(short)
    if short:
        assert len(set(pq.read_table(held)["user_id"].to_pylist())) == short
