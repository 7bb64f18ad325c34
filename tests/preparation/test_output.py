"""The output folder is whole or absent, and what is already there is never lost."""

import errno
import json
import os
import shutil
from pathlib import Path

import duckdb
import pytest
from small_movielens import (
    Rating,
    read_ratings,
    write_ratings,
)
from test_prepare import CHECKS

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.preparation.build.work_folder import work_folder
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.raw.files import Checksums
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import read_manifest, verify

HORIZON = 8


def _shas(folder: Path) -> dict[str, str]:
    return {info.path: info.sha256 for info in read_manifest(folder).files}


def _failing(error: BaseException):
    def fail(*_):
        raise error

    return fail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (UserError("midway"), UserError, "midway"),
        (
            OSError(errno.ENOSPC, "said"),
            OutsideError,
            "prepared': No space left on device: make room",
        ),
        (RuntimeError("IO Error: No space left on device"), OutsideError, "make room"),
    ],
)
def test_a_mistake_of_the_user_or_a_full_disk_midway_leaves_nothing(
    error, kind, says, small_raw, tmp_path, monkeypatch
):
    monkeypatch.setattr(manifests, "describe", _failing(error))
    with pytest.raises(kind, match=says):
        prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [RuntimeError("midway"), KeyboardInterrupt(), OSError(errno.EIO, "lost")]
)
def test_any_other_failure_midway_leaves_no_data_set_and_the_same_command_goes_on(
    error, small_raw, small_data, tmp_path, monkeypatch
):
    out = tmp_path / "prepared"
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "describe", _failing(error))
        with pytest.raises((type(error), OutsideError)):
            prepare(Settings("movielens", small_raw, HORIZON), out)
    assert [path.name for path in tmp_path.iterdir()] == [".prepared.work"]
    said = []
    prepare(Settings("movielens", small_raw, HORIZON), out, report=said.append)
    assert said[0] == "resuming from an earlier run"
    assert _shas(out) == _shas(small_data)
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_while_replacing_keeps_the_old_data_set(
    small_raw, small_data, tmp_path, monkeypatch
):
    out = tmp_path / "prepared"
    shutil.copytree(small_data, out)
    monkeypatch.setattr(manifests, "describe", _failing(UserError("midway")))
    with pytest.raises(UserError, match="midway"):
        prepare(Settings("movielens", small_raw, HORIZON, seed=1), out, overwrite=True)
    verify(out)
    assert _shas(out) == _shas(small_data)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_what_a_preparation_of_other_settings_left_is_not_taken_over(
    small_raw, small_data, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "describe", _failing(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            prepare(Settings("movielens", small_raw, HORIZON, seed=1), tmp_path / "prepared")
    assert list(tmp_path.iterdir()), "nothing was left, so this test shows nothing"
    prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "prepared")
    assert _shas(tmp_path / "prepared") == _shas(small_data)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


@pytest.mark.slow
def test_too_little_memory_leaves_what_is_finished(small_raw, small_data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            manifests,
            "describe",
            lambda *_: DuckDB._remedy(None, duckdb.OutOfMemoryException("too little")),
        )
        with pytest.raises(UserError, match=r"--memory: not enough .*: give more"):
            prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "prepared")
    said = []
    more = EngineChoice(memory="3GB")
    prepare(
        Settings("movielens", small_raw, HORIZON),
        tmp_path / "prepared",
        report=said.append,
        on=more,
    )
    assert said[0] == "resuming from an earlier run"
    assert _shas(tmp_path / "prepared") == _shas(small_data)


def test_a_spark_that_is_not_installed_is_told_before_anything_is_touched(monkeypatch):
    monkeypatch.setattr("torchrec_priors.preparation.engine.choice.find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"--engine spark needs pyspark: pip install 'torchrec-priors\[spark\]'"
    ):
        EngineChoice("spark")


def test_two_at_once_do_not_disturb_each_other(small_raw, tmp_path):
    out = tmp_path / "prepared"
    with (
        work_folder(out, {}, lambda _: None),
        pytest.raises(UserError, match="--out: another process is preparing"),
    ):
        prepare(Settings("movielens", small_raw, HORIZON), out)
    prepare(Settings("movielens", small_raw, HORIZON), out)


def _state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def prepared(small_data, tmp_path):
    """A copy of the small data set that a test may change."""
    shutil.copytree(small_data, tmp_path / "prepared")
    return tmp_path / "prepared"


@pytest.mark.parametrize(
    "horizon", [HORIZON, None], ids=["the same horizon", "the default, which is the same"]
)
def test_preparing_again_with_the_same_settings_touches_nothing(horizon, small_raw, prepared):
    before, said = _state(prepared), []
    manifest = prepare(Settings("movielens", small_raw, horizon), prepared, report=said.append)
    assert manifest == read_manifest(prepared)
    assert _state(prepared) == before
    assert said == [f"{prepared} already holds this data set"]


def test_an_output_folder_among_the_raw_files_is_none_of_them(small_raw, tmp_path):
    """`--raw . --out prepared`: what prepare writes must not count as raw data when it runs again."""
    raw = tmp_path / "raw"
    shutil.copytree(small_raw, raw)
    made = prepare(Settings("movielens", raw, HORIZON), raw / "prepared")
    before = _state(raw)
    assert prepare(Settings("movielens", raw, HORIZON), raw / "prepared") == made
    assert _state(raw) == before


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"horizon": 4}, {"seed": 1}, {"on_bad_row": "drop"}])
def test_other_settings_are_refused_and_overwrite_replaces(change, small_raw, prepared):
    before = _state(prepared)
    other = Settings(**{"dataset": "movielens", "raw": small_raw, "horizon": HORIZON, **change})
    with pytest.raises(
        UserError, match=r"--out: .* other settings: choose another folder or --overwrite"
    ):
        prepare(other, prepared)
    assert _state(prepared) == before
    manifest = prepare(other, prepared, overwrite=True)
    assert manifest == read_manifest(prepared)
    assert {name: manifest.settings[name] for name in change} == change
    verify(prepared)
    for check in CHECKS:
        check(prepared, small_raw, other.horizon)


def test_raw_files_of_other_content_are_other_settings(small_raw, prepared, tmp_path):
    """One rating changes its stars; the file keeps its length."""
    shutil.copytree(small_raw, tmp_path / "raw")
    first, *rest = read_ratings(small_raw)
    write_ratings(
        tmp_path / "raw",
        [Rating(first.user, first.film, first.stars % 5 + 1, first.seconds), *rest],
    )
    with pytest.raises(UserError, match="other settings"):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), prepared)


def test_raw_files_that_are_elsewhere_now_are_known_by_their_content(small_raw, prepared, tmp_path):
    shutil.copytree(small_raw, tmp_path / "raw", copy_function=shutil.copyfile)
    before = _state(prepared)
    prepare(Settings("movielens", tmp_path / "raw", HORIZON), prepared)
    assert _state(prepared) == before


def test_a_raw_file_that_changes_meanwhile_is_refused(small_raw, tmp_path, monkeypatch):
    shutil.copytree(small_raw, tmp_path / "raw")

    original = Checksums.result

    def result(self):
        os.utime(tmp_path / "raw" / "u.data", ns=(1, 1))
        return original(self)

    monkeypatch.setattr(Checksums, "result", result)
    with pytest.raises(UserError, match=r"u\.data' was changed while it was read"):
        prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "prepared")


def test_a_damaged_data_set_is_not_taken_for_made(small_raw, prepared):
    file = prepared / "items.parquet"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(UserError, match=r"items\.parquet"):
        prepare(Settings("movielens", small_raw, HORIZON), prepared)
    prepare(Settings("movielens", small_raw, HORIZON), prepared, overwrite=True)
    verify(prepared)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "manifest.json"])
def test_a_folder_that_is_no_data_set_is_never_overwritten(name, overwrite, small_raw, tmp_path):
    """Other programs' folders hold a manifest.json, too."""
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text(json.dumps({"name": "my browser extension", "version": "1.0"}))
    before = _state(out)
    with pytest.raises(UserError):
        prepare(Settings("movielens", small_raw, HORIZON), out, overwrite=overwrite)
    assert _state(out) == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_the_folder_is_never_overwritten(overwrite, small_raw, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="--out"):
        prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine").read_text() == "precious"


def test_an_empty_folder_is_filled(small_raw, small_data, tmp_path):
    (tmp_path / "prepared").mkdir()
    prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "prepared")
    assert _shas(tmp_path / "prepared") == _shas(small_data)
