"""A log gives the same data set in every form that `--table` and `prepare_table` take."""

from importlib.util import find_spec

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from torchrec_priors.preparation.table.prepare_table import prepare_table
from torchrec_priors.remote.cache import default_cache

START = 1_700_000_000_000
ROWS = [
    {"user_id": user, "item_id": f"i{(user * 7 + at * at) % 11}", "ts": START + 60_000 * at + user}
    for user in range(1, 8)
    for at in range(9)
]
TABLE = pa.Table.from_pylist(ROWS)


def _csv(folder):
    pa.csv.write_csv(TABLE, folder / "log.csv")
    return folder / "log.csv"


def _folder_of_parquet(folder):
    (folder / "log").mkdir()
    for number, begin in enumerate(range(0, len(ROWS), 20)):
        pq.write_table(TABLE.slice(begin, 20), folder / "log" / f"part-{number}.parquet")
    return folder / "log"


def _pandas(_):
    frame = pytest.importorskip("pandas").DataFrame(ROWS)
    return frame.assign(ts=frame["ts"].astype("datetime64[ms]"))


def _polars(_):
    import polars

    return polars.DataFrame(ROWS).with_columns(polars.col("ts").cast(polars.Datetime("ms")))


def _batches(_):
    return pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(max_chunksize=10))


def _in_memory(local):
    """The same file or folder in fsspec's store in memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for file in sorted(local.rglob("*")) if local.is_dir() else [local]:
        memory.pipe_file(f"/bucket/{file.relative_to(local.parent)}", file.read_bytes())
    return f"memory://bucket/{local.name}"


FORMS = {
    "a folder of Parquet files": _folder_of_parquet,
    "pandas": _pandas,
    "Polars": _polars,
    "an Arrow table": lambda _: TABLE,
    "a reader of Arrow batches": _batches,
    "a file URI": lambda folder: f"file://{_csv(folder)}",
    "a file in a bucket": lambda folder: _in_memory(_csv(folder)),
    "a folder in a bucket": lambda folder: _in_memory(_folder_of_parquet(folder)),
}


def _marks(form):
    """Only the form that needs an extra also runs with the tests of extras."""
    if form == "Polars":
        return pytest.mark.skipif(find_spec("polars") is None, reason="Polars is not installed")
    return pytest.mark.slow


def _prepared(log, out):
    columns = {"user": "user_id", "item": "item_id", "time": "ts"}
    return prepare_table(log, out, horizon=2, name="log", **columns).manifest


@pytest.fixture(scope="module")
def of_csv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    return _prepared(_csv(folder), folder / "data")


@pytest.mark.parametrize("form", [pytest.param(form, marks=_marks(form)) for form in FORMS])
def test_a_log_in_another_form(form, of_csv, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "cache"))
    default_cache.cache_clear()
    found = _prepared(FORMS[form](tmp_path), tmp_path / "data")
    default_cache.cache_clear()
    assert found.counts == of_csv.counts
    assert found.counts["interactions"] == len(ROWS)
    assert found.content_sha256 == of_csv.content_sha256


@pytest.mark.slow
def test_a_data_set_in_a_bucket(of_csv, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "cache"))
    default_cache.cache_clear()
    found = _prepared(_in_memory(_csv(tmp_path)), "memory://bucket/data")
    default_cache.cache_clear()
    assert found.content_sha256 == of_csv.content_sha256
    assert fsspec.filesystem("memory").exists("/bucket/data/manifest.json")
