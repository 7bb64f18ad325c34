"""Links that came with a data set or a run, or lie where we write: nothing is written through them."""

import json
import os
import shutil

import pytest
from small_movielens import write_movielens

from torchrec_priors.common.files import partial_of
from torchrec_priors.errors import UserError
from torchrec_priors.planning.plot import check_plot
from torchrec_priors.preparation.build.check import check_name
from torchrec_priors.preparation.build.work_folder import place_of, set_aside
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.request import PriorRequest
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.run.folder import RunFolder


@pytest.fixture
def data(small_data, tmp_path):
    return shutil.copytree(small_data, tmp_path / "data")


@pytest.fixture
def victim(tmp_path):
    """A file and a folder that nobody may touch."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept").write_text("kept")
    yield tmp_path / "victim"
    assert [file.name for file in (tmp_path / "victim").iterdir()] == ["kept"]
    assert (tmp_path / "victim" / "kept").read_text() == "kept"


def _add(data, name="age2"):
    prepared = PreparedData(data)
    grouping = PriorRequest("user", name, by="age").make(prepared)
    return add_prior(data, name, grouping, prepared.manifest)


def test_partial_files_of_a_data_set_are_made_anew(data, victim):
    prior, ready = data / "priors" / "age2.parquet", data / ".manifest.json.ready"
    for planted in (
        partial_of(prior),
        ready,
        partial_of(ready),
        partial_of(data / "manifest.json"),
    ):
        planted.symlink_to(victim / "kept")
    made = _add(data)
    assert read_manifest(data) == made
    assert not prior.is_symlink()
    assert not (data / "manifest.json").is_symlink()


def test_a_folder_of_priors_that_is_a_link_is_refused(data, victim, tmp_path):
    (data / "priors").rename(tmp_path / "elsewhere")
    (data / "priors").symlink_to(tmp_path / "elsewhere")
    PreparedData(data)  # may be read
    with pytest.raises(UserError, match=r"priors' is a link, through which nothing is written"):
        _add(data)
    assert not (tmp_path / "elsewhere" / "age2.parquet").exists()


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "/x", "..", ".x", "a\nb", "x.py", "x.py:3", "a\\b", "n" * 300]
)
def test_names_of_priors(data, name):
    with pytest.raises(UserError, match=r"rename it|choose another name"):
        check_name(name, "--name")
    if not name.startswith("x.py"):
        _rename(data, "genre", name)
        with pytest.raises(UserError, match=r"manifest\.json: "):
            read_manifest(data)


def _rename(data, prior, name):
    """In the manifest alone."""
    values = json.loads((data / "manifest.json").read_text())
    values.pop("sha256", None)
    for each in values["priors"]:
        each["name"] = name if each["name"] == prior else each["name"]
    (data / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "priors//x", "a/../../x"])
def test_paths_of_a_manifest(data, path):
    values = json.loads((data / "manifest.json").read_text())
    values.pop("sha256", None)
    values["files"][0]["path"] = path
    (data / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"manifest\.json: the file .* leads out of the folder"):
        read_manifest(data)


@pytest.mark.parametrize("where", [place_of, set_aside])
def test_links_beside_a_preparation(tmp_path, victim, where):
    """What is cleared is our own, never what a link names."""
    raw, out = write_movielens(tmp_path / "raw"), tmp_path / "out"
    prepare(Settings("movielens", raw, 8), out)
    where(out).symlink_to(victim)
    prepare(Settings("movielens", raw, 4), out, overwrite=True)
    assert read_manifest(out).horizon == 4
    assert not where(out).is_symlink()


@pytest.mark.parametrize("inside", ["checkpoints", "events", "eval", "eval/test"])
def test_folders_of_a_run_that_are_links_are_refused(tmp_path, victim, inside):
    (tmp_path / "run" / inside).parent.mkdir(parents=True)
    (tmp_path / "run" / inside).symlink_to(victim)
    with pytest.raises(UserError, match=rf"run/{inside}' is a link"):
        RunFolder(tmp_path / "run").check_writable()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run" / inside).unlink()
    RunFolder(tmp_path / "link").check_writable()  # of a whole run


def test_a_checkpoint_that_begins_at_a_link_is_written_beside(tmp_path, victim):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-00000009.partial").symlink_to(victim)
    Checkpoints(folder, _Alone()).folder.go_back(0, 0, -1.0)
    assert list(folder.iterdir()) == []


class _Alone:
    leads = True


@pytest.mark.parametrize("made", [os.mkdir, os.mkfifo])
def test_a_figure_replaces_nothing_but_a_file(tmp_path, made):
    made(tmp_path / "figure.png")
    with pytest.raises(UserError, match=r"is a folder|is not a regular file"):
        check_plot(tmp_path / "figure.png")
