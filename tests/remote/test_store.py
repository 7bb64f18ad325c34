"""A store that fails for a while is asked again; what stays wrong is one line that names the remedy."""

import errno
import sys

import pytest
from stores import Pretended, fresh, served

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.remote.store import TRIES, DamagedError, Store
from torchrec_priors.remote.uri import Uri

URI = Uri("pretended://bucket/shop")


@pytest.fixture
def store(monkeypatch, tmp_path):
    fresh(monkeypatch, tmp_path / "cache").pipe_file(f"{URI}/a/b.bin", b"content")
    return Store(URI, "--data")


def _failing(monkeypatch, times, error):
    """The first calls fail."""
    left = [times]

    def trouble(call, path, content):
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return content

    monkeypatch.setattr(Pretended, "trouble", trouble)


def test_a_lost_connection_is_tried_again(store, monkeypatch, tmp_path):
    _failing(monkeypatch, TRIES - 1, ConnectionResetError("reset by peer"))
    assert store.read("a/b.bin") == b"content"
    _failing(monkeypatch, TRIES - 1, OSError("the body ended early"))
    store.get("a/b.bin", tmp_path / "copy", lambda copy: None)
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_a_connection_that_stays_lost_is_one_line_and_no_mistake_of_the_user(store, monkeypatch):
    _failing(monkeypatch, TRIES, TimeoutError("no answer\nwithin 5 s"))
    with pytest.raises(
        OutsideError,
        match=rf"^--data: '{URI}/a/b.bin' failed {TRIES} times \(TimeoutError: no answer wi",
    ):
        store.read("a/b.bin")
    assert Pretended.calls["cat", "b.bin"] == TRIES


def test_a_full_cache_is_said_at_once(store, monkeypatch):
    _failing(monkeypatch, TRIES, OSError(errno.ENOSPC, "said"))
    with pytest.raises(
        OutsideError,
        match=r"No space left on device: make room .* give TORCHREC_PRIORS_CACHE another",
    ):
        store.read("a/b.bin")
    assert Pretended.calls["cat", "b.bin"] == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError("x"), "does not exist: check the name"),
        (PermissionError("Access Denied"), "no permission .*Access Denied.*credentials"),
        (
            OSError(errno.ENAMETOOLONG, "said"),
            "too long: choose a shorter name, or give TORCHREC_PRIORS_CACHE",
        ),
        (ValueError("Bucket names have no spaces"), "Bucket names have no spaces"),
    ],
)
def test_what_the_user_can_mend_is_said_at_once(store, monkeypatch, error, says):
    _failing(monkeypatch, TRIES, error)
    with pytest.raises(UserError, match=says):
        store.read("a/b.bin")
    assert Pretended.calls["cat", "b.bin"] == 1


def test_a_mistake_of_this_program_is_not_hidden(store, monkeypatch):
    _failing(monkeypatch, 1, KeyError("ours"))
    with pytest.raises(KeyError):
        store.read("a/b.bin")


def test_a_damaged_copy_is_made_again_once(store, tmp_path):
    seen = []

    def check(copy):
        seen.append(copy.read_bytes())
        raise DamagedError("not what it must be")

    with pytest.raises(UserError, match=r"b.bin': not what it must be$"):
        store.get("a/b.bin", tmp_path / "copy", check)
    assert seen == [b"content", b"content"]


def test_files_and_their_versions(store):
    (path,), (file,) = zip(*store.files().items(), strict=True)
    assert (path, file.bytes) == ("a/b.bin", 7)
    assert file.version.startswith("created=")
    Pretended().pipe_file(f"{URI}/a/b.bin", b"CONTENT")
    assert store.files()[path].version != file.version


def test_putting_and_removing(store, tmp_path):
    (tmp_path / "file").write_bytes(b"new")
    store.put(tmp_path / "file", "c/d.bin")
    assert store.read("c/d.bin") == b"new"
    store.remove("c/d.bin")
    store.remove("c/d.bin")
    assert not store.exists("c/d.bin")


def test_an_upload_that_arrives_in_part_is_made_again_once(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"whole")
    monkeypatch.setattr(Pretended, "trouble", lambda call, path, content: content[:-1])
    with pytest.raises(UserError, match="4 of 5 bytes arrived"):
        store.put(tmp_path / "file", "d.bin")
    assert Pretended.calls["put", "d.bin"] == 2


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("https", "http"), ("hf", "hf")])
def test_a_library_that_is_missing_is_named_by_its_extra(protocol, extra, monkeypatch):
    for library in ("s3fs", "aiohttp", "huggingface_hub", "fsspec.implementations.http"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(
        UserError, match=rf"{protocol}:// needs an extra: pip install 'torchrec-priors\[{extra}\]'"
    ):
        Store(Uri(f"{protocol}://bucket/shop"), "--data")


def test_an_unknown_protocol():
    with pytest.raises(UserError, match="gopher"):
        Store(Uri("gopher://bucket/shop"), "--data")


def test_http(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="the extra `http` is not installed")
    monkeypatch.setattr("torchrec_priors.remote.store.FIRST_WAIT", 0.0)
    (tmp_path / "there.bin").write_bytes(b"content")
    with served(tmp_path) as (address, asked):
        store = Store(Uri(address), "--data")
        assert store.read("there.bin") == b"content"
        with pytest.raises(UserError, match="does not exist"):
            store.read("nowhere.bin")
        assert len([line for line in asked if "nowhere" in line]) == 1
        with pytest.raises(UserError, match="cannot list a folder: download"):
            store.files()
        with pytest.raises(UserError, match="can only be read"):
            store.require_writable()
    with pytest.raises(OutsideError, match="check the connection"):
        store.read("there.bin")
