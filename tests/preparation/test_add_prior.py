"""A prior is added whole or not at all; what is there is not lost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prepare import HORIZON, _shas

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import read_manifest, verify


@pytest.fixture
def prepared(small_data, tmp_path):
    """A copy of the small data set that a test may change."""
    shutil.copytree(small_data, tmp_path / "prepared")
    return tmp_path / "prepared"


def _halves(items, first="even"):
    group = pa.array([item % 2 for item in range(items)], pa.int32())
    table = pa.table({"item": pa.array(range(items), pa.int32()), "group": group})
    return Grouping(
        "item", [first, "odd"], [items // 2, items // 2], table, {"kind": "mapping", "first": first}
    )


def _thirds(items):
    group = pa.array([item % 3 for item in range(items)], pa.int32())
    table = pa.table({"item": pa.array(range(items), pa.int32()), "group": group})
    return Grouping("item", ["a", "b", "c"], [items // 3] * 3, table, {"kind": "mapping"})


def _add(folder, grouping, name="half", **options):
    return add_prior(folder, name, grouping, read_manifest(folder), **options)


def test_file_and_manifest_tell_of_it_and_everything_else_stays(prepared, small_data):
    made = _add(prepared, _halves(150))
    verify(prepared)
    assert made == read_manifest(prepared)
    info = made.prior("half")
    assert (info.kind, info.groups, info.sizes) == ("item", ["even", "odd"], [75, 75])
    assert info.made_by == {"kind": "mapping", "first": "even"}
    assert pq.read_table(prepared / "priors/half.parquet").equals(_halves(150).table)
    shas = _shas(prepared)
    assert shas.pop("priors/half.parquet") == manifests.sha256(prepared / "priors/half.parquet")
    assert shas == _shas(small_data)
    before = read_manifest(small_data)
    _, whole = manifests.describe(prepared, [prepared / info.path for info in made.files])
    assert made.content_sha256 == whole != before.content_sha256
    assert made.prepared_sha256 == before.prepared_sha256 == before.content_sha256
    unchanged = replace(
        made, priors=before.priors, files=before.files, content_sha256=before.content_sha256
    )
    assert unchanged == before


def test_preparing_again_finds_the_data_set_made_and_keeps_the_prior(prepared, small_raw):
    _add(prepared, _halves(150))
    said = []
    manifest = prepare(Settings("movielens", small_raw, HORIZON), prepared, report=said.append)
    assert said == [f"{prepared} already holds this data set"]
    assert manifest.prior("half").sizes == [75, 75]


def test_a_manifest_from_before_priors_could_be_added_is_read(prepared):
    file = prepared / manifests.FILE
    values = json.loads(file.read_text())
    del values["sha256"]
    for prior in values["priors"]:
        del prior["made_by"]
    file.write_text(json.dumps(values))
    assert read_manifest(prepared).added_priors() == {}
    _add(prepared, _halves(150))
    assert list(read_manifest(prepared).added_priors()) == ["half"]


def test_a_name_that_is_taken_is_refused_unless_it_may_be_overwritten(prepared):
    _add(prepared, _halves(150))
    with pytest.raises(
        UserError, match="prior 'half' already exists: choose another name, or --overwrite"
    ):
        _add(prepared, _thirds(150))
    assert read_manifest(prepared).prior("half").groups == ["even", "odd"]
    _add(prepared, _thirds(150), overwrite=True)
    verify(prepared)
    assert read_manifest(prepared).prior("half").groups == ["a", "b", "c"]
    assert [prior.name for prior in read_manifest(prepared).priors].count("half") == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("genre", "prior 'genre' came with the data"),
        ("rating.eligible", r"'priors/rating\.eligible\.parquet' is a file of another prior"),
        ("a/b", "--name: prior 'a/b' cannot be the name of a file"),
        ("", "cannot be the name of a file"),
        (".half", "cannot be the name of a file"),
        ("temporal", "named like a kind of prior"),
    ],
)
def test_names_that_cannot_be_are_refused_whatever_may_be_overwritten(
    name, says, prepared, small_data
):
    with pytest.raises(UserError, match=says):
        _add(prepared, _halves(150), name, overwrite=True)
    verify(prepared)
    assert read_manifest(prepared) == read_manifest(small_data)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_before_any_move_leaves_a_whole_data_set(overwrite, prepared, monkeypatch):
    """A process that dies cleans nothing up: here, cleaning up is switched off."""
    if overwrite:
        _add(prepared, _halves(150))
    states, moves = [], 0
    for killed_at in range(6):
        done, dead = 0, set()

        def move(self, target, *, last=killed_at, dead=dead, original=Path.replace):
            nonlocal done
            if done == last:
                dead.add(last)
                raise KeyboardInterrupt
            done += 1
            return original(self, target)

        def unlink(self, missing_ok=False, *, dead=dead, original=Path.unlink):
            if not dead:
                original(self, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", move)
            patch.setattr(Path, "unlink", unlink)
            try:
                _add(prepared, _thirds(150), overwrite=overwrite)
            except KeyboardInterrupt:
                moves += 1
        verify(prepared)
        states.append(
            [prior.groups for prior in read_manifest(prepared).priors if prior.name == "half"]
        )
        if moves == killed_at:  # not killed
            break
    assert states[-1] == [["a", "b", "c"]]
    assert moves >= 2, "too few moves to be killed between"
    assert all(state in ([], [["even", "odd"]]) for state in states[:-1])
    assert states[0] == ([["even", "odd"]] if overwrite else [])


def test_what_a_kill_left_is_in_nobodys_way(prepared):
    (prepared / "priors" / ".half.parquet.partial").write_bytes(b"cut")
    (prepared / "priors" / "half.parquet").write_bytes(b"cut")
    _add(prepared, _halves(150))
    verify(prepared)
    assert [path.name for path in (prepared / "priors").glob(".*")] == []


def test_a_data_set_that_was_prepared_anew_meanwhile_is_left_alone(prepared, small_raw):
    before = read_manifest(prepared)
    prepare(Settings("movielens", small_raw, HORIZON, seed=1), prepared, overwrite=True)
    with pytest.raises(
        UserError, match="was prepared again while the prior was computed: run this again"
    ):
        add_prior(prepared, "half", _halves(150), before)
    verify(prepared)


def test_a_prior_that_another_process_added_meanwhile_stays(prepared):
    before = read_manifest(prepared)
    _add(prepared, _halves(150))
    add_prior(prepared, "third", _thirds(150), before)
    verify(prepared)
    assert list(read_manifest(prepared).added_priors()) == ["half", "third"]
