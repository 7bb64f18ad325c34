"""A store's raw files as a local folder: fetched once, again where they change, gone on with after a kill."""

from collections import Counter

import pytest
from stores import Pretended, fill, fresh

from torchrec_priors.errors import UserError
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.mirror import mirror, mirror_file
from torchrec_priors.remote.uri import Uri

URI = Uri("pretended://bucket/raw")
CONTENT = {
    "20230501/0.parquet": b"may 0",
    "20230501/1.parquet": b"may 1",
    "20230601/0.parquet": b"june",
    "names.csv": b"",
}


@pytest.fixture
def store(monkeypatch, tmp_path):
    files = fresh(monkeypatch, tmp_path / "cache")
    for path, content in CONTENT.items():
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / path).write_bytes(content)
    fill(tmp_path / "raw", URI)
    return files


def _found(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_all_files_at_their_paths_fetched_once(store):
    folder = mirror(URI, "--raw")
    assert _found(folder) == CONTENT
    assert sorted(folder.glob("[0-9]*/*.parquet")) == [
        folder / path for path in sorted(CONTENT) if "/" in path
    ]
    assert folder.name == "raw"
    assert mirror(URI, "--raw") == folder
    assert Counter(call for call, _ in Pretended.calls.elements()) == {"get": len(CONTENT)}


def test_a_file_that_changes_in_the_store_is_fetched_again_and_alone(store):
    before = mirror(URI, "--raw")
    Pretended.calls.clear()
    store.pipe_file(f"{URI}/20230601/0.parquet", b"JUNE")
    after = mirror(URI, "--raw")
    assert Pretended.calls == {("get", "0.parquet"): 1}
    assert _found(after) == CONTENT | {"20230601/0.parquet": b"JUNE"}
    assert _found(before) == CONTENT  # whoever works on it goes on


def test_a_file_that_goes_is_gone(store):
    mirror(URI, "--raw")
    store.rm_file("/bucket/raw/names.csv")
    assert "names.csv" not in _found(mirror(URI, "--raw"))


def test_a_kill_costs_no_file_that_is_there(store, monkeypatch):
    def die(call, path, content):
        if path.endswith("1.parquet"):
            raise KeyboardInterrupt
        return content

    monkeypatch.setattr(Pretended, "trouble", die)
    with pytest.raises(KeyboardInterrupt):
        mirror(URI, "--raw")
    monkeypatch.setattr(Pretended, "trouble", None)
    there = len(list((default_cache().folder / "files").iterdir()))
    Pretended.calls.clear()
    assert _found(mirror(URI, "--raw")) == CONTENT
    assert there >= 1
    assert sum(Pretended.calls.values()) == len(CONTENT) - there


def test_files_without_versions_are_fetched_every_time(store, monkeypatch):
    monkeypatch.setattr("torchrec_priors.remote.store._VERSIONS", ())
    for _ in range(2):
        assert _found(mirror(URI, "--raw")) == CONTENT
    assert sum(Pretended.calls.values()) == 2 * len(CONTENT)


def test_a_file_that_comes_in_part_is_refused(store, monkeypatch):
    monkeypatch.setattr(Pretended, "trouble", lambda call, path, content: content[:-1])
    with pytest.raises(UserError, match=r"--raw: '.*parquet': \d of \d bytes arrived"):
        mirror(URI, "--raw")
    kept = [file.read_bytes() for file in (default_cache().folder / "files").iterdir()]
    assert kept in ([], [b""]), "names.csv alone is whole, if it came before another failed"


@pytest.mark.parametrize("damage", [b"may 2", b"may", None])
def test_a_damaged_file_of_the_cache_comes_again(store, damage):
    mirror(URI, "--raw")
    entry = _entry_of(b"may 1")
    entry.unlink() if damage is None else entry.write_bytes(damage)
    default_cache.cache_clear()  # as in another process
    Pretended.calls.clear()
    assert _found(mirror(URI, "--raw")) == CONTENT
    assert Pretended.calls == {("get", "1.parquet"): 1}


def test_a_file_whose_checksum_was_lost_comes_again(store):
    mirror(URI, "--raw")
    for file in (default_cache().folder / "sums").iterdir():
        file.write_text("0" * 64)
    default_cache.cache_clear()
    assert _found(mirror(URI, "--raw")) == CONTENT


def _entry_of(content):
    return next(
        file
        for file in (default_cache().folder / "files").iterdir()
        if file.read_bytes() == content
    )


def test_nothing_there_and_no_folder(store):
    with pytest.raises(
        UserError, match=r"--raw: 'pretended://bucket/nowhere' has no files: check the name"
    ):
        mirror(Uri("pretended://bucket/nowhere"), "--raw")
    with pytest.raises(UserError, match=r"names\.csv' is a file: name the folder"):
        mirror(URI / "names.csv", "--raw")


def test_progress_is_said(store):
    said = []
    mirror(URI, "--raw", said.append)
    assert said == [f"fetching {URI} (4 files): 0.00 MB"]


@pytest.mark.parametrize(
    "key", ["//abs/path", "/../../up", "/a/../../../up", "/C:\\x", "/two\nlines"]
)
def test_an_object_whose_name_leads_out_of_the_folder_is_refused(store, tmp_path, key):
    store.store[f"/bucket/raw{key}"] = store.store["/bucket/raw/names.csv"]
    with pytest.raises(
        UserError, match=r"--raw: 'pretended://bucket/raw' has a file that .* rename it there"
    ):
        mirror(URI, "--raw")
    assert not [link for link in tmp_path.rglob("*") if link.is_symlink()]
    assert Pretended.calls["get", "path"] == 0


def test_one_file_of_a_folder(store):
    Pretended.calls.clear()
    file = mirror_file(URI, "names.csv", "--table")
    assert (file.name, file.read_bytes()) == ("names.csv", CONTENT["names.csv"])
    assert Counter(call for call, _ in Pretended.calls.elements()) == {"get": 1}
    assert mirror_file(URI, "names.csv", "--table") == file
    with pytest.raises(UserError, match="does not exist"):
        mirror_file(URI, "other.csv", "--table")
