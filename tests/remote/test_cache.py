"""Entries of the cache are fetched once, by one process of the machine, and stay as long as anyone uses them."""

import multiprocessing
import os
import signal
import time

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.remote.cache import Cache, Wanted, default_cache


def _wanted(key, content=b"x" * 100, log=None):
    def fetch(file):
        if log is not None:
            log.append(key)
        file.write_bytes(content)

    return Wanted(key, len(content), fetch)


def _keys(folder):
    return sorted(file.name for file in (folder / "files").iterdir())


def test_a_file_is_fetched_once(tmp_path):
    log = []
    for _ in range(2):
        cache = Cache(tmp_path)
        paths = cache.fetch([_wanted(key, key.encode(), log) for key in "abc"])
        assert [path.read_bytes() for path in paths] == [b"a", b"b", b"c"]
    assert sorted(log) == ["a", "b", "c"]
    assert list((tmp_path / "locks").iterdir()) == []


def test_what_fails_leaves_nothing_and_is_fetched_the_next_time(tmp_path):
    def half(file):
        file.write_bytes(b"ha")
        raise UserError("lost")

    cache = Cache(tmp_path)
    with pytest.raises(UserError, match="lost"):
        cache.fetch([Wanted("a", 4, half)])
    assert _keys(tmp_path) == []
    assert cache.fetch([_wanted("a", b"half")])[0].read_bytes() == b"half"


def _fetch_slowly(folder, log):
    def fetch(file):
        with log.open("a") as opened:
            opened.write(f"{os.getpid()}\n")
        file.write_bytes(b"half")
        time.sleep(0.5)
        file.write_bytes(b"half and half")

    (path,) = Cache(folder).fetch([Wanted("a", 13, fetch)])
    assert path.read_bytes() == b"half and half"


def test_of_several_processes_one_fetches(tmp_path):
    spawn = multiprocessing.get_context("fork")
    several = [
        spawn.Process(target=_fetch_slowly, args=(tmp_path / "cache", tmp_path / "log"))
        for _ in range(3)
    ]
    for process in several:
        process.start()
    for process in several:
        process.join(60)
    assert [process.exitcode for process in several] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1


def _fetch_for_ever(folder, began):
    def fetch(file):
        file.write_bytes(b"half")
        began.touch()
        time.sleep(100)

    Cache(folder).fetch([Wanted("a", 8, fetch)])


def test_killed_while_it_fetches(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_fetch_for_ever, args=(tmp_path, tmp_path / "began")
    )
    process.start()
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert _keys(tmp_path) == [".a.partial"]
    assert Cache(tmp_path).fetch([_wanted("a", b"all of it")])[0].read_bytes() == b"all of it"
    assert _keys(tmp_path) == ["a"]


def _in_another_process(folder, *keys, until=None):
    """Who fetched the keys and uses them until told; gone where there is nothing to wait for."""

    def use(ready):
        Cache(folder).fetch([_wanted(key) for key in keys])
        ready.set()
        if until is not None:
            until.wait(60)

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=use, args=(ready,))
    process.start()
    assert ready.wait(60)
    if until is None:
        process.join()
    return process


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    for key in "abc":
        _in_another_process(tmp_path, key)
    _in_another_process(tmp_path, "a")
    Cache(tmp_path, 300).fetch([_wanted("d")])
    assert _keys(tmp_path) == ["a", "c", "d"]


def test_what_living_processes_use_stays_even_beyond_the_bound(tmp_path):
    until = multiprocessing.get_context("fork").Event()
    other = _in_another_process(tmp_path, "a", until=until)
    _in_another_process(tmp_path, "b")
    mine = Cache(tmp_path, 150)
    mine.fetch([_wanted("c")])
    assert _keys(tmp_path) == ["a", "c"]
    mine.fetch([_wanted("d")])
    assert _keys(tmp_path) == ["a", "c", "d"]
    until.set()
    other.join()
    mine.fetch([_wanted("e")])
    assert _keys(tmp_path) == ["c", "d", "e"]


def test_rests_of_killed_processes_go_too(tmp_path):
    cache = Cache(tmp_path, 100)
    cache.fetch([_wanted("a", b"1")])
    (tmp_path / "files" / ".old.partial").write_bytes(b"x" * 100)
    os.utime(tmp_path / "files" / ".old.partial", (1, 1))
    cache.fetch([_wanted("b", b"2")])
    assert _keys(tmp_path) == ["a", "b"]


def test_an_entry_that_is_too_short_comes_again(tmp_path):
    (path,) = Cache(tmp_path).fetch([_wanted("a", b"whole")])
    path.write_bytes(b"who")
    assert Cache(tmp_path).fetch([_wanted("a", b"whole")])[0].read_bytes() == b"whole"


def test_a_file_of_this_machine_becomes_an_entry(tmp_path):
    (tmp_path / "made").write_bytes(b"made here")
    cache = Cache(tmp_path / "cache")
    cache.adopt(tmp_path / "made", "a")
    log = []
    assert cache.fetch([_wanted("a", b"from afar", log)])[0].read_bytes() == b"made here"
    assert log == []


def test_where_it_is_and_how_large_it_may_be(tmp_path, monkeypatch):
    default_cache.cache_clear()
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE_SIZE", "2GB")
    assert (default_cache().folder, default_cache().most) == (tmp_path / "mine", 2 * 10**9)
    default_cache.cache_clear()
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE_SIZE", "much")
    with pytest.raises(UserError, match="TORCHREC_PRIORS_CACHE_SIZE: 'much'"):
        default_cache()
    monkeypatch.delenv("TORCHREC_PRIORS_CACHE")
    monkeypatch.delenv("TORCHREC_PRIORS_CACHE_SIZE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert (default_cache().folder, default_cache().most) == (
        tmp_path / "users" / "torchrec_priors",
        None,
    )
    default_cache.cache_clear()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        UserError, match=r"the cache '.*file' cannot be .*Not a directory.*TORCHREC_PRIORS_CACHE"
    ):
        Cache(tmp_path / "file").fetch([_wanted("a")])
