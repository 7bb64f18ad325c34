"""Malformed raw files: refused with file and row, dropped and counted, or repaired and counted."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.synthetic.files import generate


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(raw folder, its data set's manifest); tests must not change it."""
    raw = tmp_path_factory.mktemp("sound") / "raw"
    generate(raw, 2_000, 0)
    return raw, prepare(Settings("marketplace", raw), raw.with_name("prepared"))


@pytest.fixture
def raw(sound, tmp_path):
    return shutil.copytree(sound[0], tmp_path / "raw")


def test_duplicates_and_unsorted_times_are_repaired_and_counted(sound, raw, tmp_path):
    log = pq.read_table(raw / "log.parquet")
    log = pa.concat_tables([log, log.slice(100, 30), log.slice(110, 5)])
    order = np.random.default_rng(0).permutation(len(log))
    pq.write_table(log.take(order), raw / "log.parquet", row_group_size=300)
    made = prepare(Settings("marketplace", raw), tmp_path / "prepared")
    assert made.content_sha256 == sound[1].content_sha256
    assert made.counts["dropped"] == {**sound[1].counts["dropped"], "duplicate interactions": 35}
    first = np.full(len(log), len(log))
    np.minimum.at(first, np.where(order < 2_000, order, _original(order)), np.arange(len(log)))
    users, place = log["user_id"].to_numpy()[:2_000], first[:2_000]
    late = (
        (np.diff(users) == 0) & (np.diff(place) < 0)
    ).sum()  # as generated, rows stand in order of user and time
    assert made.counts["repaired"] == {"interactions out of order in time": late}
    assert late > 500
    assert sound[1].counts["repaired"] == {"interactions out of order in time": 0}


def _original(row):
    return np.where(row < 2_030, row - 2_000 + 100, row - 2_030 + 110)


def test_text_of_a_title_that_is_no_utf8(raw, tmp_path):
    items = pq.read_table(raw / "items.parquet")
    titles = [title.encode() for title in items["title"].to_pylist()]
    titles[6] = b"Caf\xe9"
    ends = np.concatenate([[0], np.cumsum([len(title) for title in titles])]).astype(np.int32)
    broken = pa.Array.from_buffers(
        pa.string(), len(titles), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(titles))]
    )
    pq.write_table(
        items.set_column(items.schema.get_field_index("title"), "title", broken),
        raw / "items.parquet",
    )
    with pytest.raises(
        UserError, match=r"items\.parquet, row 7: title is not UTF-8 text: 'Caf\\\\xe9'"
    ):
        prepare(Settings("marketplace", raw), tmp_path / "prepared")
    made = prepare(Settings("marketplace", raw, on_bad_row="drop"), tmp_path / "prepared")
    assert made.counts["items"] == len(titles) - 1
    dropped = {
        reason: rows for reason, rows in made.counts["dropped"].items() if "parquet" in reason
    }
    assert dropped.pop("items.parquet: title is not UTF-8 text") == 1
    assert set(dropped) <= {"log.parquet: item_id must be listed in items.parquet"}


@pytest.mark.parametrize(
    ("column", "kind"), [("user_id", pa.uint64()), ("item_id", pa.string()), ("time", pa.float64())]
)
def test_columns_of_other_types_are_refused(raw, tmp_path, column, kind):
    """Ids beyond int64 need a type that holds them."""
    log = pq.read_table(raw / "log.parquet")
    place = log.schema.get_field_index(column)
    pq.write_table(log.set_column(place, column, log[column].cast(kind)), raw / "log.parquet")
    says = rf"log\.parquet: column '{column}' is of type {kind} where int64 is expected"
    with pytest.raises(UserError, match=says):
        prepare(Settings("marketplace", raw, on_bad_row="drop"), tmp_path / "prepared")


def test_the_first_of_many_bad_rows_is_named_whatever_is_wrong_with_it(raw, tmp_path):
    rows = pq.read_table(raw / "log.parquet").to_pydict()
    rows["time"][7], rows["event"][5], rows["user_id"][3] = -1, "view", None
    pq.write_table(pa.table(rows), raw / "log.parquet")
    with pytest.raises(UserError, match=r"log\.parquet, row 4: user_id must have a value: None"):
        prepare(Settings("marketplace", raw), tmp_path / "prepared")
    made = prepare(Settings("marketplace", raw, on_bad_row="drop"), tmp_path / "prepared")
    assert (
        sum(
            rows
            for reason, rows in made.counts["dropped"].items()
            if reason.startswith("log.parquet")
        )
        == 3
    )


@pytest.mark.parametrize(("file", "key"), [("items", "item_id"), ("users", "user_id")])
def test_an_entity_that_is_listed_twice_is_refused(raw, tmp_path, file, key):
    table = pq.read_table(raw / f"{file}.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(4, 1)]), raw / f"{file}.parquet")
    says = rf"{file}\.parquet, row {len(table) + 1}: the same {key} twice"
    with pytest.raises(UserError, match=says):
        prepare(Settings("marketplace", raw), tmp_path / "prepared")
