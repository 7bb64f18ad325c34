"""URIs that fsspec does not know are opened by the handlers that users have registered with iopath."""

import io
import re
import shutil
import sys
from pathlib import Path
from uuid import uuid4

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FSSpecHandler, PyFileSystem

pytest.importorskip("iopath", reason="the extra `iopath` is not installed")
import tiny
from held_in_memory import HELD, fill
from iopath.common.file_io import PathHandler, g_pathmgr

from torchrec_priors.api.evaluate import evaluate
from torchrec_priors.apps.serve import serve
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.preparation.build.into_a_store import prepare_there
from torchrec_priors.preparation.prepare import Settings
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.mirror import mirror
from torchrec_priors.remote.opening import open_uri
from torchrec_priors.remote.store import TRIES, Store
from torchrec_priors.remote.uri import Uri
from torchrec_priors.serving.run import load_run

DATA = "held://shop/data"


@pytest.fixture
def held(small_data, tmp_path, monkeypatch):
    """The handler, which holds the small data set; this process has a new cache."""
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torchrec_priors.remote.store.FIRST_WAIT", 0.0)
    monkeypatch.setattr(HELD, "files", {})
    monkeypatch.setattr(HELD, "opened", [])
    default_cache.cache_clear()
    fill(small_data, DATA)
    yield HELD
    default_cache.cache_clear()


def test_train_evaluate_and_recommend(held, trained, tmp_path):
    run = tmp_path / "run"
    tiny.train(tiny.config(), PreparedData(DATA), run)
    here = shutil.copytree(trained(tiny.config()), tmp_path / "here")
    assert _ndcg(run) == _ndcg(here)
    with load_run(run) as loaded, load_run(here) as other:
        assert loaded.data.folder == Uri(DATA)
        assert loaded.recommend(user="7", k=5) == other.recommend(user="7", k=5)


def _ndcg(run):
    return evaluate(run, "test", progress=False)[0]["ndcg@10"]


def test_a_run_is_read_from_there(held, trained, tmp_path):
    config = tiny.config(training={"steps": 6, "keep_last": 3})
    here = shutil.copytree(trained(config), tmp_path / "here")
    fill(here, "held://shop/run")
    metrics, _ = evaluate("held://shop/run", "test", data=DATA, progress=False)
    assert metrics["ndcg@10"] == _ndcg(here)
    assert metrics.summary.startswith("held://shop/run on test, ")
    # The evaluation is in the local copy, and the same run gives the same copy again.
    with load_run("held://shop/run", DATA) as loaded:
        copy = loaded.folder
    assert (copy.path / "eval/test/metrics.json").is_file()
    assert not any(file.startswith("held://shop/run/eval/test") for file in held.files)
    assert len(list((here / "checkpoints").glob("step-*"))) > 1
    assert {path.name for path in copy.checkpoints.iterdir()} == {"best.json", loaded.checkpoint}

    with pytest.raises(UserError, match=r"--run: 'held://shop/data' holds no run"):
        evaluate(DATA, "test")


def test_a_service_needs_a_place_for_events_if_its_run_is_there():
    with pytest.raises(UserError, match=r"^--state: name where events of users are kept"):
        serve(run="held://shop/run")


def test_prepare_writes_there_what_it_writes_here(held, small_raw, small_data):
    fill(small_raw, "held://shop/raw")
    raw = mirror(Uri("held://shop/raw"), "--raw")
    prepare_there(Settings("movielens", raw, 8), Uri("held://shop/made"))
    assert (
        held.files["held://shop/made/items.parquet"] == (small_data / "items.parquet").read_bytes()
    )
    made = PreparedData("held://shop/made").manifest
    assert made.content_sha256 == read_manifest(small_data).content_sha256


def test_raw_files_have_the_same_folder_as_long_as_they_are_the_same(held, small_raw):
    fill(small_raw, "held://shop/raw")
    first = mirror(Uri("held://shop/raw"), "--raw")
    entries = len(list((default_cache().folder / "files").iterdir()))
    assert mirror(Uri("held://shop/raw"), "--raw") == first
    assert len(list((default_cache().folder / "files").iterdir())) == entries
    held.files["held://shop/raw/u.data"] += b"1\t1\t5\t875000000\n"
    assert mirror(Uri("held://shop/raw"), "--raw") != first


class _Pipe(io.RawIOBase):
    """A stream that cannot go back, as of a network."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._content.readinto(buffer)


@pytest.mark.parametrize("stream", [io.BytesIO, _Pipe])
def test_pyarrow_reads_columns_of_a_parquet_file_there(held, small_data, monkeypatch, stream):
    monkeypatch.setattr(HELD, "_open", lambda path, mode, **options: stream(HELD.files[path]))
    files, path = open_uri(Uri(f"{DATA}/items.parquet"), "--data")
    table = pq.read_table(path, columns=["item_id"], filesystem=PyFileSystem(FSSpecHandler(files)))
    assert table.equals(pq.read_table(small_data / "items.parquet", columns=["item_id"]))
    sequences = ds.dataset(f"{DATA}/sequences", filesystem=PyFileSystem(FSSpecHandler(files)))
    assert sequences.count_rows() == PreparedData(small_data).users
    assert Store(Uri(DATA), "--data").listed("items.parquet").bytes == len(HELD.files[path])
    assert PreparedData(DATA).catalogue().equals(PreparedData(small_data).catalogue())


def test_a_handler_that_only_opens_holds_a_data_set(held, small_data):
    class Least(PathHandler):
        def _get_supported_prefixes(self):
            return ["least://shop/"]

        def _open(self, path, mode="r", buffering=-1, **options):
            return io.BytesIO(HELD.files[path.replace("least:", "held:")])

    g_pathmgr.register_handler(Least())
    assert PreparedData("least://shop/data").catalogue().num_rows == PreparedData(small_data).items
    with pytest.raises(UserError, match=r"--raw: 'least://shop/data'.* has no method _"):
        mirror(Uri("least://shop/data"), "--raw")
    with pytest.raises(UserError, match="no handler in iopath's g_pathmgr opens it"):
        PreparedData("least://other/data")


def test_the_handler_of_the_documentation(small_data, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "cache"))
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf8")
    (code,) = re.findall(r"```python\n(import os\n.*?)```", page, re.DOTALL)
    exec(code.replace("/mnt/vault", str(small_data.parent)), {})
    assert PreparedData(f"vault://{small_data.name}").manifest == read_manifest(small_data)
    assert Store(Uri(f"vault://{small_data.name}"), "--raw").files().keys() == {
        str(path.relative_to(small_data)) for path in small_data.rglob("*") if path.is_file()
    }


def test_what_is_missing_is_named(held):
    with pytest.raises(UserError, match=r"--data: 'held://nowhere' is not a prepared data set"):
        PreparedData("held://nowhere")
    del held.files[f"{DATA}/items.parquet"]
    with pytest.raises(UserError, match=rf"^--data: '{DATA}/items.parquet' does not exist"):
        PreparedData(DATA).catalogue()
    with pytest.raises(UserError, match="--raw: 'held://nowhere' has no files"):
        mirror(Uri("held://nowhere"), "--raw")


def test_a_handler_that_fails_is_asked_again(held, monkeypatch):
    asked = []

    def fail(path, mode, **options):
        asked.append(path)
        raise RuntimeError("the quota of this minute is used up")

    monkeypatch.setattr(HELD, "_open", fail)
    with pytest.raises(OutsideError, match=r"RuntimeError: the quota of this minute"):
        PreparedData(DATA)
    assert len(asked) == TRIES


def test_an_unknown_scheme(monkeypatch):
    remedy = "name the module that registers its handler in TORCHREC_PRIORS_IMPORT"
    with pytest.raises(
        UserError, match=rf"^--data: 'shelf://shop': shelf:// is unknown .*: {remedy}$"
    ):
        PreparedData("shelf://shop")
    monkeypatch.setitem(sys.modules, "iopath.common.file_io", None)
    with pytest.raises(UserError, match=rf"pip install 'torchrec-priors\[iopath\]' and {remedy}$"):
        PreparedData("shelf://shop")


def test_modules_that_the_environment_names_are_imported(tmp_path, monkeypatch):
    name = f"handlers{uuid4().hex}"
    code = "import fsspec\nfrom fsspec.implementations.memory import MemoryFileSystem\n"
    code += f"fsspec.register_implementation('{name}', MemoryFileSystem)\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCHREC_PRIORS_IMPORT", f"json, {name}")
    assert not Store(Uri(f"{name}://shop"), "--data").exists("manifest.json")


@pytest.mark.parametrize(
    ("code", "says"),
    [(None, "ModuleNotFoundError: No module named"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_module_that_cannot_be_imported(code, says, tmp_path, monkeypatch):
    name = f"handlers_{uuid4().hex}"
    if code is not None:
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCHREC_PRIORS_IMPORT", name)
    with pytest.raises(UserError, match=rf"^TORCHREC_PRIORS_IMPORT: '{name}' cannot be .*{says}"):
        PreparedData("held://shop/data")
