"""A prepared data set in a store reads as the same one here; what comes damaged is never taken."""

import re

import numpy as np
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.arrow import HadoopFileSystem
from stores import Pretended, fill, fresh, served

from torchrec_priors.common.files import json_text, read_json
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import FILE, read_manifest
from torchrec_priors.prepared.opening import key_of
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Uri

URI = "pretended://bucket/shop"
SEQUENCES = "part-00000.parquet"


@pytest.fixture
def store(small_data, monkeypatch, tmp_path):
    files = fresh(monkeypatch, tmp_path / "cache")
    fill(small_data, URI)
    return files


def _same(there, here):
    assert there.manifest == here.manifest
    assert there.catalogue().equals(here.catalogue())
    assert np.array_equal(there.lengths, here.lengths)
    for mine, other in zip(there.row_groups, here.row_groups, strict=True):
        assert there.user_ids(mine).equals(here.user_ids(other))
        users, others = (
            there.read_users(mine, ["timestamps", "events"]),
            here.read_users(other, ["timestamps", "events"]),
        )
        assert np.array_equal(users.items, others.items)
        assert all(
            np.array_equal(users.columns[name], others.columns[name]) for name in others.columns
        )
    for prior in here.manifest.priors:
        entity = {"item": "item", "event": "event", "user": "user_id"}[prior.kind]
        for mine, other in zip(
            there.prior_pairs(prior.name, entity), here.prior_pairs(prior.name, entity), strict=True
        ):
            assert np.array_equal(mine, other)


def test_it_reads_as_the_same_data_set_here(store, small_data):
    there = PreparedData(URI)
    _same(there, PreparedData(small_data))
    assert there.folder == Uri(URI)
    assert (
        there.find_user("7").items.tolist()
        == PreparedData(small_data).find_user("7").items.tolist()
    )


def test_a_file_comes_when_it_is_needed_once_for_all_data_sets(store, small_data):
    there = PreparedData(URI)
    assert Pretended.calls == {("cat", FILE): 1}
    there.catalogue(["item_id"])
    there.catalogue(["frequency"])
    assert Pretended.calls == {("cat", FILE): 1, ("get", "items.parquet"): 1}
    assert there.row_groups
    fill(small_data, f"{URI}-copy")
    for uri in (URI, f"{URI}-copy"):
        again = PreparedData(uri)
        again.catalogue()
        assert again.lengths.sum()
    gets = {path: count for (call, path), count in Pretended.calls.items() if call == "get"}
    assert gets == {"items.parquet": 1, SEQUENCES: 1}


def test_by_http(small_data, monkeypatch, tmp_path):
    pytest.importorskip("aiohttp", reason="the extra `http` is not installed")
    fresh(monkeypatch, tmp_path / "cache")
    with served(small_data) as (address, _):
        _same(PreparedData(address), PreparedData(small_data))
        with pytest.raises(
            UserError, match=r"/priors' is not a prepared data set \(no manifest\.json: "
        ):
            PreparedData(f"{address}/priors")


def _files():
    return list((default_cache().folder / "files").iterdir())


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"\0" + content[1:]]
)
def test_a_damaged_file_is_refused_and_not_kept(store, monkeypatch, damage):
    there = PreparedData(URI)
    monkeypatch.setattr(Pretended, "trouble", lambda call, path, content: damage(content))
    with pytest.raises(
        UserError,
        match=rf"^--data: '{URI}/items.parquet': the downloaded copy does not match its checksum",
    ):
        there.catalogue()
    assert _files() == []
    monkeypatch.setattr(Pretended, "trouble", None)
    assert there.catalogue().num_rows == there.items


def test_a_file_that_is_damaged_on_its_way_once_comes_again(store, monkeypatch, small_data):
    left = [1]

    def trouble(call, path, content):
        left[0] -= 1
        return content[:50] if left[0] >= 0 else content

    there = PreparedData(URI)
    monkeypatch.setattr(Pretended, "trouble", trouble)
    assert there.catalogue().equals(PreparedData(small_data).catalogue())


def test_a_connection_that_is_lost(store, monkeypatch):
    def trouble(call, path, content):
        raise ConnectionResetError("by peer")

    there = PreparedData(URI)
    monkeypatch.setattr(Pretended, "trouble", trouble)
    with pytest.raises(OutsideError, match=r"part-00000.parquet' failed 4 times .*run this again"):
        assert there.lengths.sum()
    assert _files() == []


def test_what_is_missing_is_named(store):
    with pytest.raises(
        UserError, match=r"--data: 'pretended://bucket/nowhere' is not a prepared data set"
    ):
        PreparedData("pretended://bucket/nowhere")
    there = PreparedData(URI)
    store.rm_file("/bucket/shop/items.parquet")
    with pytest.raises(UserError, match=rf"--data: '{URI}/items.parquet' does not exist"):
        there.catalogue()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema_version": 1}', b'{"schema_version": 99}']
)
def test_a_manifest_that_is_none(store, content):
    store.pipe_file(f"{URI}/{FILE}", content)
    with pytest.raises(UserError, match=re.escape(f"{URI}/{FILE}")):
        PreparedData(URI)


def test_a_manifest_names_no_file_of_this_machine(store, small_data):
    values = read_json(small_data / FILE, remedy="")
    values["files"][0]["sha256"] = "../../elsewhere"
    store.pipe_file(f"{URI}/{FILE}", json_text(values).encode())
    with pytest.raises(UserError, match=r"'\.\./\.\./elsewhere' is not a checksum"):
        PreparedData(URI)


def test_another_data_set_of_the_same_name_is_another_one(store, small_data):
    """Whoever has the old manifest gets the old files or an error, never new ones."""
    old = PreparedData(URI)
    other = store.cat_file(f"{URI}/priors/genre.parquet")
    store.pipe_file(f"{URI}/items.parquet", other)
    with pytest.raises(UserError, match="does not match its checksum"):
        old.catalogue()
    assert read_manifest(small_data) == old.manifest


def test_by_arrows_view_of_hdfs(small_data, monkeypatch, tmp_path):
    """Everything but libhdfs: fsspec's wrapper of Arrow's file systems, with a local one in place of the cluster."""
    fresh(monkeypatch, tmp_path / "cache")
    cluster = pafs.SubTreeFileSystem(str(small_data.parent), pafs.LocalFileSystem())
    monkeypatch.setattr(pafs, "HadoopFileSystem", lambda **options: cluster)
    monkeypatch.setattr(HadoopFileSystem, "cachable", False)
    uri = f"hdfs://me@head:8020/{small_data.name}"
    _same(PreparedData(uri), PreparedData(small_data))
    store = Store(Uri(uri), "--data")
    assert store.files().keys() == {
        str(file.relative_to(small_data)) for file in small_data.rglob("*.*")
    }
    assert all(file.version.startswith("mtime=") for file in store.files().values())


def test_hdfs_without_hadoop_says_what_it_needs(monkeypatch, tmp_path):
    fresh(monkeypatch, tmp_path / "cache")
    for name in ("HADOOP_HOME", "ARROW_LIBHDFS_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        UserError,
        match="--data: 'hdfs://nowhere/shop': hdfs:// needs Hadoop's client: set JAVA_HOME",
    ):
        PreparedData("hdfs://nowhere/shop")


@pytest.mark.parametrize(
    "path", ["items.parquet", "priors/genre.parquet", "sequences/part-00000.parquet"]
)
def test_a_damaged_copy_in_the_cache_comes_again(store, small_data, path, caplog):
    _same(PreparedData(URI), PreparedData(small_data))
    info = next(info for info in read_manifest(small_data).files if info.path == path)
    copy = default_cache().folder / "files" / key_of(info)
    whole = copy.read_bytes()
    for place in (len(whole) // 3, len(whole) // 2, len(whole) - 60):
        copy.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        caplog.clear()
        _same(PreparedData(URI), PreparedData(small_data))
        assert f"{URI}/{path}: the copy in the cache was damaged" in caplog.text
        assert copy.read_bytes() == whole


def test_a_copy_that_is_damaged_while_it_is_read_comes_again(store, small_data, caplog):
    there, here = PreparedData(URI), PreparedData(small_data)
    assert np.array_equal(there.lengths, here.lengths)
    (file,) = {group.file for group in there.row_groups}
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + bytes(4096) + whole[len(whole) // 2 + 4096 :])
    _same(there, here)
    assert caplog.text.count("it is fetched again") == 1
