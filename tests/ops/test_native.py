"""C++ that is compiled on first use: kept, replaced when it changes, done without where it cannot be had."""

import logging
import os
import shutil

import pytest

from torchrec_priors.ops.native import load_native


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHREC_PRIORS_NATIVE", raising=False)
    load_native.cache_clear()
    yield tmp_path / "answer.cpp"
    load_native.cache_clear()


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
def test_a_file_is_compiled_once_and_again_when_it_changes(source, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for answer in (42, 42, 43):
        source.write_text(f'extern "C" int answer() {{ return {answer}; }}')
        load_native.cache_clear()
        assert load_native(source).answer() == answer
    assert caplog.text.count("compiled answer.cpp") == 2
    assert len(list((tmp_path / "cache" / "torchrec_priors").iterdir())) == 2


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
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
