"""C++ that is compiled on first use: kept, replaced when it changes, done without where it cannot be had."""

import logging
import os
import shutil
import subprocess
import sys

import pytest

from torchrec_priors.ops.native import load_native

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHREC_PRIORS_NATIVE", raising=False)
    load_native.cache_clear()
    yield tmp_path / "answer.cpp"
    load_native.cache_clear()


@needs_compiler
def test_a_file_is_compiled_once_and_again_when_it_changes(source, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for answer in (42, 42, 43):
        source.write_text(f'extern "C" int answer() {{ return {answer}; }}')
        load_native.cache_clear()
        assert load_native(source).answer() == answer
    assert caplog.text.count("compiled answer.cpp") == 2
    assert len(list(_kept(tmp_path))) == 2


def _kept(tmp_path):
    return sorted((tmp_path / "cache" / "torchrec_priors" / "native").glob("*.so"))


def _answers(source, answer):
    """What it is compiled to."""
    source.write_text(f'extern "C" int answer() {{ return {answer}; }}')
    load_native.cache_clear()
    return load_native(source).answer()


def _flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@needs_compiler
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: _flip(file, 40),
        lambda file: _flip(file, -1),
        lambda file: file.write_bytes(
            file.read_bytes()[:100] + bytes(4000) + file.read_bytes()[4100:]
        ),
    ],
    ids=["empty", "cut", "head", "seal", "zeroed"],
)
def test_a_damaged_library_is_compiled_anew_and_then_whole(source, tmp_path, caplog, damage):
    caplog.set_level(logging.INFO)
    assert _answers(source, 42) == 42
    (library,) = _kept(tmp_path)
    whole = library.read_bytes()
    library.unlink()  # the process that has loaded it keeps its own
    library.write_bytes(whole)
    library.chmod(0o700)
    damage(library)
    assert _answers(source, 42) == 42
    assert caplog.text.count("is damaged: it is compiled again") == 1
    assert _kept(tmp_path) == [library]
    assert _answers(source, 42) == 42
    assert caplog.text.count("compiled again") == 1


@needs_compiler
def test_a_whole_library_of_another_source_is_not_taken_for_it(source, tmp_path, caplog):
    assert _answers(source, 42) == 42
    (first,) = _kept(tmp_path)
    assert _answers(source, 43) == 43
    (second,) = set(_kept(tmp_path)) - {first}
    second.unlink()
    shutil.copy(first, second)
    assert _answers(source, 43) == 43
    assert "is damaged" in caplog.text


@needs_compiler
def test_what_others_can_write_is_not_loaded(source, tmp_path, caplog):
    assert _answers(source, 42) == 42
    (library,) = _kept(tmp_path)
    library.chmod(0o777)
    assert _answers(source, 42) == 42
    assert "others could have written it: it is compiled again" in caplog.text
    assert library.stat().st_mode & 0o777 == 0o700
    moved = library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(moved)
    assert _answers(source, 42) == 42
    assert not library.is_symlink()


@needs_compiler
@pytest.mark.parametrize("whose", ["others may write", "another user's", "a link"])
def test_from_a_folder_that_others_can_write_nothing_is_loaded(source, tmp_path, caplog, whose):
    folder = tmp_path / "cache" / "torchrec_priors" / "native"
    assert _answers(source, 42) == 42
    before = _kept(tmp_path)
    if whose == "others may write":
        folder.chmod(0o777)
    elif whose == "a link":
        folder.symlink_to(folder.rename(tmp_path / "elsewhere"))
    elif os.geteuid() == 0:
        os.chown(folder, 4321, 4321)
    else:
        pytest.skip("only root can give files away")
    assert _answers(source, 43) == 43
    assert "nothing is loaded from it" in caplog.text
    assert _kept(tmp_path) == before


@needs_compiler
@pytest.mark.parametrize("given", ["", "cache"])
def test_nothing_is_loaded_from_the_working_folder(source, tmp_path, monkeypatch, given):
    """An empty or relative path is not a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert _answers(source, 42) == 42
    assert list((tmp_path / "home" / ".cache" / "torchrec_priors" / "native").glob("*.so"))
    assert not (tmp_path / "torchrec_priors").exists()
    assert not (tmp_path / "cache").exists()


@needs_compiler
def test_without_a_cache_it_is_compiled_for_the_process(source, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "cache").write_text("no folder")
    assert _answers(source, 42) == 42
    assert "cannot be kept" in caplog.text


@needs_compiler
def test_processes_that_compile_at_the_same_time_all_have_it(source, tmp_path):
    source.write_text('extern "C" int answer() { return 42; }')
    code = f"""
from pathlib import Path
from torchrec_priors.ops.native import load_native
print(load_native(Path({str(source)!r})).answer())
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert [process.communicate()[0] for process in running] == [b"42\n"] * 3
    assert len(_kept(tmp_path)) == 1


@needs_compiler
def test_what_does_not_compile_is_said_and_done_without(source, caplog):
    source.write_text("this is no C++")
    assert load_native(source) is None
    assert "answer.cpp is not used" in caplog.text


def test_without_a_compiler_it_is_said_and_done_without(source, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    source.write_text("int x;")
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    assert load_native(source) is None
    assert "there is no C++ compiler" in caplog.text


def test_it_can_be_switched_off(source, monkeypatch):
    source.write_text("int x;")
    monkeypatch.setenv("TORCHREC_PRIORS_NATIVE", "0")
    assert load_native(source) is None
