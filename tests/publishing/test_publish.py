"""A published version answers as its run does; whatever goes wrong, what is visible is whole, and one line says it."""

import errno
import json
import re
import shutil
from pathlib import Path

import pytest
from published_models import bulk_answers, copy_of, publish_both, two_runs

from torchrec_priors import load_run
from torchrec_priors.apps import command
from torchrec_priors.apps import publish as app
from torchrec_priors.common.files import partial_of, write_json
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.publishing import copy_run as copy_module
from torchrec_priors.publishing import publish as publish_module
from torchrec_priors.publishing.canary import CanaryRequest, read_canary
from torchrec_priors.publishing.current import Current, read_current, write_current
from torchrec_priors.publishing.folder import PublishedFolder
from torchrec_priors.publishing.publish import publish, publish_again
from torchrec_priors.publishing.verify import verify


@pytest.fixture(scope="module")
def runs(trained):
    return two_runs(trained)


@pytest.fixture(scope="module")
def models(runs, tmp_path_factory):
    """A folder with the versions `one` and `two`; tests only read it."""
    return publish_both(runs, tmp_path_factory.mktemp("published") / "models")


@pytest.fixture
def own(models, tmp_path):
    """A copy that a test may change."""
    return copy_of(models, tmp_path / "models")


@pytest.fixture
def untested(monkeypatch):
    """Versions are not loaded when they are published, which takes most of the time."""
    canary = publish_module.Canary("0" * 64, [], [])
    monkeypatch.setattr(publish_module, "_try_out", lambda *_: ("step-00000002", canary))


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "versions").iterdir())


def _current(folder: Path) -> str:
    current = read_current(folder)
    assert current is not None
    return current.version


def test_a_version_gives_the_answers_of_its_run_to_the_last_bit(runs, models, small_data, tmp_path):
    moved = shutil.copytree(small_data, tmp_path / "moved")
    answers = []
    for run, name in zip(runs, ("one", "two"), strict=True):
        with load_run(run) as loaded:
            expected = bulk_answers(loaded, tmp_path / "expected", 7)
        with load_run(models / "versions" / name, data=moved) as loaded:
            assert bulk_answers(loaded, tmp_path / "found", 7) == expected
            answers.append(expected)
    assert answers[0] != answers[1]


def test_only_what_serving_reads_is_copied(models):
    place = models / "versions" / "one"
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    inside = "checkpoints/step-00000002"
    assert names == [
        "canary.json", "checkpoints/best.json", f"{inside}/.metadata", f"{inside}/checksums.json",
        f"{inside}/rank-0-0.distcp", "config.toml", "data.json", "manifest.json", "paths.json", "seen.parquet",
    ]  # fmt: skip
    manifest = verify(place)
    assert sorted(manifest.files) == [name for name in names if name != "manifest.json"]
    assert manifest.bytes == sum((place / name).stat().st_size for name in manifest.files)
    assert (manifest.name, manifest.checkpoint) == ("one", "step-00000002")


def test_the_canary_has_the_answers_of_bulk(runs, models, tmp_path):
    canary = read_canary(models / "versions" / "one")
    with load_run(runs[0]) as loaded:
        assert canary.data_sha256 == loaded.data.manifest.prepared_sha256
        bulk = bulk_answers(loaded, tmp_path / "bulk", 10)
    *of_users, without_history = canary.requests
    assert len(of_users) == 8
    for request, items in zip(of_users, canary.answers, strict=False):
        assert [(item.item_id, item.score) for item in items] == bulk[request.user]
    assert without_history.history == []
    assert len(canary.answers[-1]) == 10


def test_the_newest_versions_are_kept(runs, tmp_path, untested):
    removed = [publish(runs[0], tmp_path, f"v{number}", keep=3).removed for number in range(5)]
    assert removed == [[], [], [], ["v0"], ["v1"]]
    assert _visible(tmp_path) == ["v2", "v3", "v4"]
    # Going back leaves the one that was current, even if it is not among the newest then.
    done = publish_again(tmp_path, "v2", keep=2)
    assert (done.previous, done.removed, _current(tmp_path)) == ("v4", ["v3"], "v2")
    done = publish(runs[0], tmp_path, "v5", keep=2)
    assert (done.previous, done.removed) == ("v2", ["v4"])
    assert _visible(tmp_path) == ["v2", "v5"]


def test_versions_without_a_name_get_the_time(runs, tmp_path, untested, monkeypatch):
    class Noon(publish_module.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 12, 0, 0, tzinfo=tz)

    monkeypatch.setattr(publish_module, "datetime", Noon)
    for _ in range(2):
        publish(runs[0], tmp_path)
    assert _visible(tmp_path) == ["20260102-120000", "20260102-120000-2"]
    assert PublishedFolder(tmp_path).newest_first()[0] == _current(tmp_path) == "20260102-120000-2"


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a b", "", ".", "..", ".x", "-x", "x\n", "ü", "v" * 65, "/tmp/x"]
)
def test_names_that_no_version_may_have(runs, tmp_path, name):
    for refuse in (
        lambda: publish(runs[0], tmp_path / "models", name),
        lambda: publish_again(tmp_path / "models", name),
    ):
        with pytest.raises(UserError, match=r"--version: .* is no name of a version"):
            refuse()
    assert not list(tmp_path.iterdir())


def test_a_version_that_exists_is_not_replaced(runs, own):
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    for run, name in ((runs[0], "two"), (runs[1], "two"), (runs[1], "one")):
        with pytest.raises(UserError, match=f"--version: version '{name}' exists in .* choose"):
            publish(run, own, name)
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before


def test_a_version_that_was_completed_before_a_kill_becomes_current(runs, own):
    assert publish(runs[0], own, "one").previous == "two"
    assert _current(own) == "one"


def test_what_a_killed_process_left_is_removed(runs, own, untested):
    for leftover in (own / "versions/.three.partial", own / "versions/.zero.partial"):
        (leftover / "checkpoints").mkdir(parents=True)
        (leftover / "config.toml").write_text("half")
    partial_of(own / "current.json").write_text("{")
    assert PublishedFolder(own).newest_first() == ["two", "one"]
    publish(runs[0], own, "three")
    assert _visible(own) == ["one", "three", "two"]
    assert sorted(path.name for path in own.iterdir()) == ["current.json", "versions"]


def test_one_process_at_a_time(runs, own):
    with (
        PublishedFolder(own).writing(),
        pytest.raises(UserError, match="another process publishes"),
    ):
        publish(runs[0], own, "three")
    assert _visible(own) == ["one", "two"]


def test_a_damaged_current_json_is_written_again(runs, own, untested, caplog):
    (own / "current.json").write_text('{"version": "one", "publ')
    publish(runs[0], own, "three", keep=2)
    assert "current.json' cannot be read" in caplog.text
    assert _current(own) == "three"
    assert _visible(own) == ["three", "two"]


def test_going_back_to_a_version(own):
    done = publish_again(own, "one")
    assert (done.version.name, done.previous, done.removed) == ("one", "two", [])
    assert _current(own) == "one"
    with pytest.raises(UserError, match=r"has no version 'three' \(there are: two, one\)"):
        publish_again(own, "three")
    (own / "versions/two/paths.json").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"version 'two' is damaged: 'paths.json' has 7 bytes"):
        publish_again(own, "two")
    assert _current(own) == "one"


def test_runs_that_cannot_be_published(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    inside = run / "checkpoints/step-00000002"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as raised:
            publish(run, tmp_path / "models", "one")
        assert "\n" not in str(raised.value)
        assert ".one.partial" not in str(raised.value)
        assert not (tmp_path / "models" / "versions").exists() or not _visible(tmp_path / "models")

    file = inside / "rank-0-0.distcp"
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    refused("is damaged, or is being replaced .*rank-0-0.distcp' does not match its checksum")
    file.unlink()
    refused("rank-0-0.distcp' is missing")
    file.write_bytes(whole)
    (inside / "checksums.json").unlink()
    refused("checksums.json' is missing")
    shutil.rmtree(inside)
    refused("the best checkpoint .* is missing")
    (run / "checkpoints/best.json").unlink()
    refused("has no best checkpoint yet: train until its first evaluation")
    (run / "config.toml").write_text("seed = 1\n")
    refused("config.toml' has changed")
    shutil.rmtree(run)
    refused("there is no folder")
    run.write_text("a file")
    refused("is not a folder")


def test_a_training_that_replaces_its_best_checkpoint_meanwhile(runs, tmp_path, monkeypatch):
    """The first attempt finds that files are gone; the second one copies the new best checkpoint."""
    run = shutil.copytree(runs[0], tmp_path / "run")
    best = run / "checkpoints"
    copied = []

    def copy_file(source: Path, target: Path):
        if source.suffix == ".distcp" and not copied:
            copied.append(source)
            (best / "step-00000002").rename(best / "step-00000004")
            values = json.loads((best / "best.json").read_text())
            del values["sha256"]
            write_json(best / "best.json", values | {"step": 4})
        return real(source, target)

    real = copy_module.copy_file
    monkeypatch.setattr(copy_module, "copy_file", copy_file)
    done = publish(run, tmp_path / "models", "one")
    assert done.version.checkpoint == "step-00000004"
    assert not [name for name in done.version.files if "step-00000002" in name]
    verify(done.place)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize(
    "where", ["copy_run", "_try_out", "write_manifest", "sync_folders", "write_current"]
)
def test_a_disk_that_refuses(runs, own, untested, monkeypatch, where, number):
    def refuse(*_):
        raise OSError(number, "said")

    monkeypatch.setattr(publish_module, where, refuse)
    kind, says = (
        (OutsideError, "No space left on device: make room")
        if number == errno.ENOSPC
        else (UserError, "Permission denied")
    )
    with pytest.raises(kind, match=f"--to: cannot write '{own}': {says}"):
        publish(runs[0], own, "three")
    assert _current(own) == "two"
    # Only a version that is whole is visible.
    assert _visible(own) == (
        ["one", "three", "two"] if where == "write_current" else ["one", "two"]
    )
    for name in _visible(own):
        verify(own / "versions" / name)


def test_places_that_cannot_hold_versions(runs, tmp_path):
    with pytest.raises(UserError, match="holds a run: name a folder for published models"):
        publish(runs[0], runs[1], "one")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--to: cannot write '.*file'"):
        publish(runs[0], tmp_path / "file", "one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "versions").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link, through which nothing is written"):
        publish(runs[0], tmp_path / "models", "one")
    with pytest.raises(UserError, match="--keep: 1 is too few"):
        publish(runs[0], tmp_path / "models", "one", keep=1)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_canary_whose_request_is_rejected_is_not_published(runs, tmp_path):
    wrong = [CanaryRequest(user=1), CanaryRequest(history=[4711], strict=True)]
    with pytest.raises(UserError, match=r"request 2 of the canary is rejected: .*4711"):
        publish(runs[0], tmp_path, "one", canary=wrong)
    assert _visible(tmp_path) == []


def test_the_command(runs, tmp_path, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            command.run(app.publish, [str(word) for word in words], single_process=True)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    models = tmp_path / "models"
    file = tmp_path / "canary.jsonl"
    file.write_text(
        '{"user": 7, "k": 3}\n\n{"history": [5, {"item": 50, "time": 900}], "levers": {"mute": ["genre: Drama"]}}\n'
    )
    code, out, err = run("--run", runs[0], "--to", models, "--version", "one", "--canary", file)
    assert (code, err) == (0, "")
    said = re.fullmatch(r"version one \(step-00000002, (.*)\) is current in (.*)\n", out)
    assert said is not None
    assert re.fullmatch(r"(?!0\.0)\d+\.\dMB", said[1])
    assert said[2] == str(models)
    assert [len(answer) for answer in read_canary(models / "versions/one").answers] == [3, 10]

    write_current(models, Current("zero", "2026-01-01T00:00:00+00:00"))
    code, out, err = run("--to", models, "--version", "one")
    assert (code, err) == (0, "")
    assert _current(models) == "one"

    file.write_text('{"user": 7}\n{"usr": 7}\n')
    for words, says in (
        (["--to", models], "error: --run: it is missing: name the folder of a trained run\n"),
        (["--to", models, "--version", "one", "--trust"], "error: --trust: it needs --run"),
        (["--to", models, "--version", "two"], "has no version 'two' (there are: one)"),
        (["--to", models, "--run", runs[0], "--version", "one"], "version 'one' exists"),
        (["--to", models, "--run", runs[0], "--version", "a b"], "'a b' is no name of a version"),
        (["--to", models, "--run", tmp_path], "holds no run"),
        (["--to", models, "--run", runs[0], "--canary", file], "canary.jsonl', line 2: usr: "),
        (["--to", models, "--run", runs[0], "--canary", tmp_path / "x"], "there is no file"),
        (["--to", models, "--run", runs[0], "--keep", "1"], "--keep"),
    ):
        code, out, err = run(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err
