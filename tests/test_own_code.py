"""Own code of a run or an export runs where this user knows it, as it was recorded, and only so."""

import json
import logging
import os
import py_compile
from hashlib import sha256

import pytest
from payloads import a_module

from torchrec_priors.common import own_code, user_folders
from torchrec_priors.common.own_code import check_trusted, remember
from torchrec_priors.common.plugin import load_file
from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder in which is kept what the user has named."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(own_code, "_expected", {})
    return tmp_path / "config" / "torchrec_priors" / "trusted"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(a_module(tmp_path / "ran", "def load():\n    pass\n"))
    return tmp_path / "mine.py"


def _checksum(file):
    return sha256(file.read_bytes()).hexdigest()


def _check(file, recorded=None, *, trust=False):
    check_trusted(
        [file],
        {str(file): _checksum(file)} if recorded is None else recorded,
        file.parent,
        trust=trust,
    )


def test_what_was_named_is_known_wherever_it_lies(home, file, tmp_path):
    with pytest.raises(
        UserError, match=rf"would run '{file}' \(sha256 {_checksum(file)}\).* give --trust"
    ):
        _check(file)
    remember([file])
    assert [entry.name for entry in home.iterdir()] == [_checksum(file)]
    remember([file])  # again
    _check(file)
    moved = file.rename(tmp_path / "moved.py")
    _check(moved)
    moved.write_text(moved.read_text() + "\n")
    with pytest.raises(UserError, match="give --trust"):
        _check(moved)


def test_trust_is_for_what_was_recorded(home, file):
    _check(file, trust=True)
    assert not home.exists(), "said for this command alone"
    with pytest.raises(UserError, match="recorded no checksum: it is not run, even with --trust"):
        _check(file, {}, trust=True)
    with pytest.raises(UserError, match="has changed since"):
        _check(file, {str(file): "0" * 64}, trust=True)


def test_the_same_content_is_run_that_was_looked_at(home, file, tmp_path):
    _check(file, trust=True)
    load_file(file, option="priors.tree", function="load")
    file.write_text(a_module(tmp_path / "other"))
    with pytest.raises(UserError, match="was changed while it was opened"):
        load_file(file, option="priors.tree", function="load")
    assert not (tmp_path / "other").exists()
    remember([file])  # the user names it as it is now
    with pytest.raises(UserError, match="defines no function"):
        load_file(file, option="priors.tree", function="load")


def test_what_was_compiled_beside_it_is_not_run(file, tmp_path):
    source = file.read_text()
    file.write_text(a_module(tmp_path / "planted", "def load():\n    pass\n"))
    py_compile.compile(str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    file.write_text(source)
    load_file(file, option="priors.tree", function="load")
    assert (tmp_path / "ran").exists()
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("spoil", ["folder", "file", "link"])
def test_what_others_can_write_says_nothing(home, file, tmp_path, spoil):
    remember([file])
    if spoil == "link":
        (home / _checksum(file)).unlink()
        (home / _checksum(file)).symlink_to(file)
    else:
        (home if spoil == "folder" else home / _checksum(file)).chmod(0o777)
    with pytest.raises(UserError, match="give --trust"):
        _check(file)


def test_without_a_place_to_keep_it_training_goes_on(home, file, monkeypatch, caplog):
    home.parent.parent.write_text("no folder")
    with caplog.at_level(logging.INFO, "torchrec_priors"):
        remember([file])
    assert "will need --trust" in caplog.text


def test_an_empty_or_relative_configuration_home_is_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given in ("", "here"):
        monkeypatch.setenv("XDG_CONFIG_HOME", given)
        assert user_folders.config_folder() == tmp_path / "home" / ".config" / "torchrec_priors"


@pytest.mark.parametrize("record", ["data.json", "export.json"])
def test_a_configuration_that_came_with_a_run_is_the_runs(home, file, tmp_path, record):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(f"[encoder]\nbackbone = '{file}'\n")
    load_config(folder / "config.toml")  # of nobody but the user
    (folder / record).write_text(json.dumps({"own_files": {}}))
    with pytest.raises(UserError, match="recorded no checksum"):
        load_config(folder / "config.toml")
    load_config(folder / "config.toml", ["encoder.backbone=hstu"])
    (folder / record).write_text(json.dumps({"own_files": {str(file): _checksum(file)}}))
    with pytest.raises(UserError, match="give --trust"):
        load_config(folder / "config.toml")
    load_config(folder / "config.toml", trust=True)
    remember([file])
    load_config(folder / "config.toml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_made_says_nothing(home, file):
    remember([file])
    os.chown(home / _checksum(file), 4321, 4321)
    with pytest.raises(UserError, match="give --trust"):
        _check(file)
