"""A run, an export or a data set that came from elsewhere runs nothing: payloads in every file, for every command."""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from command_line import TINY, app
from payloads import a_module, a_pickle

from torchrec_priors.common.files import write_json
from torchrec_priors.errors import UserError
from torchrec_priors.serving.exported import load_exported
from torchrec_priors.training.run.config_file import write_config
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.origin import read_origin, write_origin

pytestmark = pytest.mark.campaign  # a few hundred commands

SMALL = "torchx_configs/small.toml"
LEAST = [*TINY, "model.context=12", "negatives.per_set=20"]
RUNS = {  # own code that works, of each kind
    "priors.tree": "from torchrec_priors.priors.temporal import load as temporal\n"
    "def load(argument, data, horizon):\n    return temporal('2', data, horizon)\n",
    "encoder.backbone": "from torchrec_priors.encoder.hstu import load\n",
    "baseline.name": "from torchrec_priors.baselines.comirec import load\n",
}


@pytest.fixture(scope="module")
def given(small_data, tmp_path_factory):
    """A data set, a run of it and its export."""
    folder = tmp_path_factory.mktemp("given")
    shutil.copytree(small_data, folder / "data")
    _train(folder, "run")
    app("evaluate", "--run", folder / "run", "--split", "test")
    app("export", "--run", folder / "run", "--out", folder / "export")
    return folder


@pytest.fixture
def place(given, tmp_path):
    """A copy of them, as somebody may send it; the run's data set is beside it."""
    place = shutil.copytree(given, tmp_path / "given")
    _say_again(place / "run", path=str(place / "data"))
    return place


@pytest.fixture
def mark(tmp_path):
    """What payloads make."""
    return tmp_path / "ran"


def _say_again(run, **changes):
    """What the run recorded, changed and sealed again, as its sender can."""
    write_origin(run / "data.json", replace(read_origin(run / "data.json"), **changes))


def _train(place, run, *more, **how):
    return app(
        "train",
        "--config",
        SMALL,
        "--data",
        place / "data",
        "--run",
        place / run,
        *LEAST,
        *more,
        **how,
    )


def _on_run(place, *trust):
    """What every command that reads a run gives."""
    run, name = place / "run", "-".join(["out", *trust])
    return [
        app("evaluate", "--run", run, "--split", "validation", *trust, check=False),
        app("recommend", "--run", run, "--history", "1", *trust, check=False),
        app("export", "--run", run, "--out", place / name, *trust, check=False),
        app("report", "--runs", run, "--out", place / "page", check=False),
        _train(place, name + "-from", "--init-from", run, *trust, check=False),
        app(
            "train",
            "--config",
            run / "config.toml",
            "--data",
            place / "data",
            "--run",
            run,
            *trust,
            check=False,
        ),
        app("plan", "--config", run / "config.toml", "--data", place / "data", *trust, check=False),
        _train(place, "run", check=False),  # the last, as it puts damaged checkpoints aside
    ]


def _on_data(place):
    """The same of a data set."""
    data = place / "data"
    return [
        app(
            "recommend",
            "--run",
            place / "run",
            "--users",
            "all",
            "--out",
            place / "all.parquet",
            check=False,
        ),
        app("evaluate", "--run", place / "run", "--split", "test", check=False),
        app("plan", "--config", SMALL, "--data", data, check=False),
        app("prior", "user", "--data", data, "--name", "age2", "--by", "age", check=False),
        app("prepare", "--append", "--raw", place / "export", "--out", data, check=False),
        _train(place, "other", check=False),
    ]


def _files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _plant(file, payload):
    """Puts it there and seals it again, where what seals it lies beside it."""
    file.write_bytes(payload)
    checksum = hashlib.sha256(payload).hexdigest()
    checksums = file.with_name("checksums.json")
    if checksums.is_file() and checksums != file:
        values = json.loads(checksums.read_text())
        values.pop("sha256", None)
        values["files"][file.name] = {"bytes": len(payload), "sha256": checksum}
        write_json(checksums, values)
    record = file.with_name("export.json")
    if record.is_file() and record != file:
        values = json.loads(record.read_text())
        values.pop("sha256", None)
        values["files"][file.name] = checksum
        write_json(record, values)


def _payloads(mark, tmp_path):
    """A pickle, and what PyTorch makes of one."""

    class Opens:
        def __reduce__(self):
            return open, (str(mark), "w")

    torch.save(Opens(), tmp_path / "saved.pt")
    return [a_pickle(mark), (tmp_path / "saved.pt").read_bytes()]


def _never_run(place, folder, mark, tmp_path, commands):
    """For each file of `folder` and each payload; how many commands were tried."""
    kept, tried = shutil.copytree(place, tmp_path / "kept"), 0
    for payload in _payloads(mark, tmp_path):
        for file in _files(place / folder):
            _plant(file, payload)
            tried += len(commands(place) or [0])
            assert not mark.exists(), file.relative_to(place)
            shutil.rmtree(place)
            shutil.copytree(kept, place)
    return tried


def test_the_payloads_work(mark, tmp_path):
    """Where somebody trusts them."""
    saved = _payloads(mark, tmp_path)[1]
    (tmp_path / "x.pt").write_bytes(saved)
    with suppress(Exception):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert mark.exists()


def test_the_commands_work(place):
    assert [done.returncode for done in _on_run(place)] == [0, 0, 0, 0, 0, 0, 0, 0]


def test_no_file_of_a_run_is_run(place, mark, tmp_path):
    assert _never_run(place, "run", mark, tmp_path, _on_run) > 150


def test_no_file_of_a_data_set_is_run(place, mark, tmp_path):
    assert _never_run(place, "data", mark, tmp_path, _on_data) > 80


def test_no_file_of_an_export_is_run(place, mark, tmp_path):
    def read(place):
        with suppress(UserError, Exception):
            load_exported(place / "export", trust=True)
        pretrained = f"table.pretrained={place / 'export' / 'items.parquet'}"
        return [_train(place, "other", pretrained, check=False)]

    assert _never_run(place, "export", mark, tmp_path, read) >= 8


def _name(place, key, file, **recorded):
    """The run's configuration names the file, and is sealed again."""
    run = RunFolder(place / "run")
    config = run.config()
    section, name = key.split(".")
    value = [str(file)] if key == "priors.tree" else str(file)
    if key == "baseline.name":  # which goes without prior heads
        config.priors.tree = []
    setattr(getattr(config, section), name, value)
    write_config(run.path / "config.toml", config)
    _say_again(run.path, **recorded)


@pytest.mark.parametrize("key", RUNS)
def test_own_code_of_a_run_runs_where_it_is_trusted_alone(place, mark, tmp_path, key):
    file = tmp_path / "mine.py"
    file.write_text(a_module(mark, RUNS[key]))
    own = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}

    _name(place, key, file, own_files={})
    untold = [app("evaluate", "--run", place / "run", "--split", "test", *trust, check=False)
              for trust in ([], ["--trust"])]  # fmt: skip
    for done in untold:
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith("it is not run, even with --trust")

    _name(place, key, file, own_files=own)
    for number, done in enumerate(_on_run(place)):
        if number not in (
            3,
            7,
        ):  # the report and the training of another configuration run none of it
            assert done.returncode == 2, done.args
            assert f"would run '{file}' (sha256 {own[str(file)]})" in done.stderr, done.args
    assert not mark.exists()

    app("evaluate", "--run", place / "run", "--split", "test", "--trust", check=False)
    assert mark.exists(), "or this tests nothing"


@pytest.mark.parametrize("key", ["encoder.backbone", "baseline.name"])
def test_own_code_of_an_export_likewise(place, mark, tmp_path, key):
    file = tmp_path / "mine.py"
    file.write_text(a_module(mark, RUNS[key]))
    _name(place, key, file)
    _plant(place / "export" / "config.toml", (place / "run" / "config.toml").read_bytes())
    for trust in (False, True):
        with pytest.raises(UserError, match="recorded no checksum: it is not run"):
            load_exported(place / "export", trust=trust)

    values = json.loads((place / "export" / "export.json").read_text())
    values.pop("sha256", None)
    values["own_files"] = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    write_json(place / "export" / "export.json", values)
    with pytest.raises(UserError, match="would run"):
        load_exported(place / "export")
    assert not mark.exists()
    with suppress(Exception):
        load_exported(place / "export", trust=True)
    assert mark.exists()


def test_what_one_trained_with_needs_no_trust(place, mark, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(a_module(mark, RUNS["encoder.backbone"]))
    _train(place, "own", f"encoder.backbone={file}")
    app("evaluate", "--run", place / "own", "--split", "test")
    app("recommend", "--run", place / "own", "--history", "1")
    app("export", "--run", place / "own", "--out", place / "own-export")
    load_exported(place / "own-export")
    _train(place, "next", f"encoder.backbone={file}", "--init-from", place / "own")
