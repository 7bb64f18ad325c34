"""A run that somebody sent is answered with, and runs nothing of theirs."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
from payloads import a_module, a_pickle

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported
from torchrec_priors.serving.run import load_run
from torchrec_priors.training.run.config_file import write_config
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.origin import read_origin, write_origin


@pytest.fixture
def sent(run, tmp_path):
    return shutil.copytree(run, tmp_path / "sent")


def test_its_metadata_is_not_run(sent, tmp_path):
    (place,) = (sent / "checkpoints").glob("step-*")
    payload = a_pickle(tmp_path / "ran")
    (place / ".metadata").write_bytes(payload)
    sums = read_json(place / "checksums.json", remedy="")
    sums["files"][".metadata"] = {
        "bytes": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    write_json(place / "checksums.json", sums)
    (sent / "checkpoints" / "best.json").write_text(
        json.dumps({"step": 2, "ndcg@10": 0.0})
    )  # as an earlier version
    with pytest.raises(UserError, match=r"cannot be loaded \(\.metadata: "):
        load_run(sent)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("setting", ["tree", "backbone", "baseline"])
def test_its_own_code_is_not_run_unless_it_is_trusted(sent, tmp_path, setting):
    file, mark = tmp_path / "mine.py", tmp_path / "ran"
    file.write_text(a_module(mark, "def load(*_):\n    raise SystemError\n"))
    config = RunFolder(sent).config()
    if setting == "tree":
        config.priors.tree = [f"{file}:3"]
    elif setting == "backbone":
        config.encoder.backbone = str(file)
    else:
        config.priors.tree, config.baseline.name = [], str(file)
    write_config(sent / "config.toml", config)

    for trust in (False, True):
        with pytest.raises(
            UserError,
            match=r"mine\.py', of which it recorded no checksum: it is not run, even with",
        ):
            load_run(sent, trust=trust)

    known = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    write_origin(sent / "data.json", replace(read_origin(sent / "data.json"), own_files=known))
    with pytest.raises(
        UserError, match=r"would run .*mine\.py' \(sha256 [0-9a-f]{64}\), which you have not"
    ):
        load_run(sent)
    assert not mark.exists()

    with pytest.raises((UserError, TypeError, SystemError)):
        load_run(sent, trust=True)
    assert mark.exists(), "or this tests nothing"


@pytest.mark.parametrize("name", ["weights.safetensors", "items.parquet"])
def test_files_of_an_export_that_were_sealed_are_not_run_either(run, tmp_path, name):
    with load_run(run) as loaded:
        export(loaded, tmp_path / "export")
    (tmp_path / "export" / name).write_bytes(a_pickle(tmp_path / "ran"))
    about = json.loads((tmp_path / "export" / "export.json").read_text())
    about.pop("sha256", None)
    about["files"][name] = hashlib.sha256((tmp_path / "export" / name).read_bytes()).hexdigest()
    (tmp_path / "export" / "export.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="holds no export that can be read"):
        load_exported(tmp_path / "export")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_configuration_is_no_cause_of_itself(sent):
    """Whoever goes along the causes of an error, as those who look for lost ranks do, comes to an end."""
    (sent / "config.toml").write_bytes(b"\x80")
    with pytest.raises(UserError, match=r"config\.toml' cannot be read") as raised:
        RunFolder(sent).config()
    assert raised.value.__cause__ is not raised.value
