"""An engine reads raw files of any size, names every row, and refuses or counts those that cannot be read."""

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.engine import Engine, Rule
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.raw.bad_rows import BadRows

COLUMNS = {"user_id": pa.int64(), "name": pa.string()}


@pytest.fixture
def engine(tmp_path):
    (tmp_path / "work").mkdir()
    engine = DuckDB(tmp_path / "work")
    yield engine
    engine.close()


def _write(file, users, names, **columns):
    file.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"user_id": pa.array(users, pa.int64()), "name": names, **columns}),
        file,
        row_group_size=2,
    )
    return file


@pytest.fixture
def shards(tmp_path):
    """Two files, of 3 and 2 rows; named so that their order is not that in which they are given."""
    second = _write(
        tmp_path / "raw" / "b.parquet", [4, 5], pa.array(["d", "e"]).dictionary_encode()
    )
    first = _write(tmp_path / "raw" / "a.parquet", [1, None, 3], ["a", "b", "c"], more=[0.5] * 3)
    return [second, first]


def _rows(engine: Engine, table) -> list[dict]:
    return engine.to_arrow(table.order_by("order")).to_pylist()


def test_rows_are_named_by_file_and_place(engine, shards):
    table = engine.read_parquet(shards, COLUMNS)
    rows = _rows(engine, table)
    assert [(row["user_id"], row["name"], row["file"], row["row"]) for row in rows] == [
        (1, "a", 0, 1),
        (None, "b", 0, 2),
        (3, "c", 0, 3),
        (4, "d", 1, 1),
        (5, "e", 1, 2),
    ]
    assert table.columns == ("user_id", "name", "file", "row", "order")
    assert len({row["order"] for row in rows}) == 5


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"customer": pa.int64()},
            r"a\.parquet has no column 'customer' \(it has user_id, name, more\)",
        ),
        (
            {"user_id": pa.int32()},
            r"a\.parquet: column 'user_id' is of type int64 where int32 is expected",
        ),
        ({"more": pa.float64()}, r"b\.parquet has no column 'more'"),
        ({"row": pa.int64()}, "column 'row' cannot be read"),
    ],
)
def test_every_files_schema_is_checked(engine, shards, columns, says):
    with pytest.raises(UserError, match=says):
        engine.read_parquet(shards, columns)


def test_no_file_and_a_file_that_is_cut_are_mistakes(engine, shards):
    with pytest.raises(UserError, match="no file to read"):
        engine.read_parquet([], COLUMNS)
    with pytest.raises(UserError, match=r"there is no file '.*c\.parquet'"):
        engine.read_parquet([*shards, shards[0].with_name("c.parquet")], COLUMNS)
    table = engine.read_parquet(shards, COLUMNS)
    shards[0].write_bytes(shards[0].read_bytes()[:40])
    with pytest.raises(UserError, match=r"b\.parquet cannot be read"):
        engine.to_arrow(table)


def _rules(table) -> list[Rule]:
    return [
        Rule("user_id", "must have a value", table.user_id.notnull()),
        Rule("name", "must be listed", ibis.memtable({"name": ["a", "b", "d", "d"]})),
        Rule("user_id", "must be below 4", table.user_id < 4),
    ]


def test_the_first_bad_row_of_all_is_refused_by_file_and_row(engine, shards):
    table = engine.read_parquet(shards, COLUMNS)
    with pytest.raises(
        UserError,
        match=r"raw/a\.parquet, row 2: user_id must have a value: None \(--on-bad-row drop",
    ):
        engine.keep_all_valid(table, _rules(table), BadRows())
    with pytest.raises(UserError, match=r"raw/a\.parquet, row 3: name must be listed: 'c'"):
        engine.keep_all_valid(table, _rules(table)[1:2], BadRows())
    late = table.filter(table.file == 1).select("user_id", "file", "row", "order")
    with pytest.raises(UserError, match=r"raw/b\.parquet, row 2: user_id must be even: 5"):
        engine.keep_valid(late, late.user_id % 2 == 0, BadRows(), "user_id", "must be even")


def test_bad_rows_are_dropped_and_counted_once_each(engine, shards):
    table, bad_rows = engine.read_parquet(shards, COLUMNS), BadRows("drop")
    kept = engine.keep_all_valid(table, _rules(table), bad_rows)
    assert [row["user_id"] for row in _rows(engine, kept)] == [1]
    assert bad_rows.dropped == {
        "raw/ (2 files): user_id must have a value": 1,
        "raw/ (2 files): name must be listed": 2,
        "raw/ (2 files): user_id must be below 4": 1,
    }


def test_where_all_rows_are_good_the_table_is_as_it_was(engine, shards):
    table = engine.read_parquet(shards, COLUMNS)
    assert (
        engine.keep_valid(table, table.name.notnull(), BadRows(), "name", "must have a value")
        is table
    )


def test_a_value_that_is_there_twice_is_refused_by_the_later_row(engine, tmp_path):
    table = engine.read_parquet(
        [_write(tmp_path / "raw" / "a.parquet", [7, 8, 7], ["a", "b", "c"])], COLUMNS
    )
    engine.require_unique(table, "name")
    with pytest.raises(UserError, match=r"a\.parquet, row 3: the same user_id twice: '7'"):
        engine.require_unique(table, "user_id")


@pytest.fixture
def garbled(tmp_path):
    """Three files; in the second, the third of four names is not UTF-8."""
    data, ends = b"abc\xff\xfed", np.array([0, 1, 2, 5, 6], np.int32)
    bad = pa.Array.from_buffers(pa.string(), 4, [None, pa.py_buffer(ends), pa.py_buffer(data)])
    names = {"a": ["x", "y"], "b": bad, "c": ["z"]}
    return [
        _write(tmp_path / "raw" / f"{n}.parquet", range(len(own)), own) for n, own in names.items()
    ]


def test_text_that_is_no_utf8_is_refused_by_file_and_row(engine, garbled):
    table = engine.read_parquet(garbled, COLUMNS)
    with pytest.raises(
        UserError, match=r"raw/b\.parquet, row 3: name is not UTF-8 text: .*xff.*on-bad-row drop"
    ):
        engine.to_arrow(table)
    assert len(engine.to_arrow(table.select("user_id"))) == 7, "what is not read is not a mistake"


def test_text_that_is_no_utf8_is_dropped_and_counted(engine, garbled):
    bad_rows = BadRows("drop")
    rows = _rows(engine, engine.read_parquet(garbled, COLUMNS, bad_rows))
    assert [(row["name"], row["file"], row["row"]) for row in rows] == [
        ("x", 0, 1),
        ("y", 0, 2),
        ("a", 1, 1),
        ("b", 1, 2),
        ("d", 1, 4),
        ("z", 2, 1),
    ]
    assert bad_rows.dropped == {"b.parquet: name is not UTF-8 text": 1}


CSV = 'user_id,name,more\n1,"a, b",x\n\ntwo,c,x\n3,d\n4,e,x\n'


def test_csv_rows_are_named_by_file_and_line(engine, tmp_path):
    (tmp_path / "a.csv").write_text("name,user_id\nx,9\n")
    (tmp_path / "b.csv").write_text(CSV)
    bad_rows = BadRows("drop")
    table = engine.read_csv([tmp_path / "b.csv", tmp_path / "a.csv"], COLUMNS, bad_rows)
    rows = _rows(engine, table)
    assert [tuple(row[name] for name in ("user_id", "name", "file", "row")) for row in rows] == [
        (9, "x", 0, 2),
        (1, "a, b", 1, 2),
        (4, "e", 1, 6),
    ]
    assert bad_rows.dropped == {
        "b.csv: wrong number of fields": 1,
        "b.csv: user_id is not an integer": 1,
    }
    with pytest.raises(UserError, match=r"b\.csv, line 6: user_id must be odd: 4"):
        engine.keep_valid(table, table.user_id % 2 == 1, BadRows(), "user_id", "must be odd")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (CSV.encode(), r"a\.csv, line 5: 2 fields where 3 are expected"),
        (b"user_id,name\n1,a\n2,\xff\n", r"a\.csv, line 3: not utf8 text"),
        (
            b"user_id,name\n99999999999999999999,a\n",
            r"a\.csv, line 2: user_id is beyond the integers of 64 bits",
        ),
        (b"user_id,name\n1,a\n2,\n,c\n", r"a\.csv, line 4: user_id is not an integer: ''"),
        (b"user_id,title\n1,a\n", r"a\.csv has no column name"),
        (b'user_id,name\n1,"a\nb"\n', r"a\.csv, line 2: name has a line break"),
        (b"", r"a\.csv is empty"),
    ],
)
def test_a_bad_line_of_csv_is_refused_by_file_and_line(engine, tmp_path, data, says):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UserError, match=says):
        engine.read_csv([tmp_path / "a.csv"], COLUMNS)


def test_what_is_materialised_for_the_same_key_is_not_computed_again(tmp_path, shards):
    (tmp_path / "work").mkdir()
    for given, key, found in ((1, "a", 1), (2, "a", 1), (2, "b", 2)):
        engine = DuckDB(tmp_path / "work")
        table = engine.materialise("one", ibis.memtable({"a": [given]}), key)
        assert engine.to_arrow(table)["a"].to_pylist() == [found]
        engine.close()


def test_batches_are_small_and_in_order(engine):
    table = engine.materialise("many", ibis.range(10_000).unnest().name("n").as_table())
    batches = list(engine.batches(table.order_by(ibis.desc("n")), 2048))
    assert max(map(len, batches)) <= 2048
    assert np.concatenate([batch["n"] for batch in batches]).tolist() == list(range(9_999, -1, -1))


def test_memory_must_be_an_amount(tmp_path):
    with pytest.raises(UserError, match="--memory: 'much' is not an amount"):
        DuckDB(tmp_path, "much")
