"""Checkpoints: written beside training, checked before they are read, the newest and the best kept."""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.run import load_run
from torchrec_priors.training import loop, trainer
from torchrec_priors.training.checkpoint import files as checkpoint_files
from torchrec_priors.training.checkpoint import staging as checkpoint_staging
from torchrec_priors.training.checkpoint.check import flaw
from torchrec_priors.training.checkpoint.keys import MANIFEST
from torchrec_priors.training.checkpoint.manifest import read_manifest


def _config(**training):
    steps = {"steps": 20, "evaluate_every": 20, "checkpoint_seconds": 0}
    return tiny.config(priors={"tree": ["temporal:2"]}, training={**steps, **training})


def _train(data, run, **training):
    return tiny.train(_config(**training), data, run)


def _names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def _tensors(place, tmp_path):
    dcp_to_torch_save(place, tmp_path / "flat.pt")

    def flat(value, prefix=""):
        if isinstance(value, torch.Tensor):
            return {prefix: value}
        pairs = value.items() if isinstance(value, dict) else ()
        return {
            key: tensor
            for name, part in pairs
            for key, tensor in flat(part, f"{prefix}/{name}").items()
        }

    return flat(torch.load(tmp_path / "flat.pt", weights_only=False))


def _same(first, second, tmp_path):
    one, other = _tensors(first, tmp_path), _tensors(second, tmp_path)
    assert len(one) > 20
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def whole(trained):
    """A run of 20 steps whose checkpoints are of steps 15 and 20, the best."""
    return trained(_config())


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_what_is_there_and_its_checksums(whole):
    assert _names(whole) == ["best.json", "step-00000015", "step-00000020"]
    for place in (whole / "checkpoints").glob("step-*"):
        manifest = read_manifest(place)
        assert {*manifest, MANIFEST} == {file.name for file in place.iterdir()}
        assert ".metadata" in manifest
        for name, checksum in manifest.items():
            content = (place / name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (
                checksum.bytes,
                checksum.sha256,
            )


@pytest.mark.slow
def test_beside_training_or_not_the_bits_are_those_of_that_step(
    whole, small_data, tmp_path, monkeypatch
):
    """The writing thread waits until training has gone on."""
    write = checkpoint_files.Writer.write_data

    def late(writer, plan, planner):
        time.sleep(0.3)
        return write(writer, plan, planner)

    monkeypatch.setattr(checkpoint_files.Writer, "write_data", late)
    _train(small_data, tmp_path / "late")
    monkeypatch.undo()
    monkeypatch.setattr(
        checkpoint_staging.Staging, "stage", lambda *_: pytest.fail("a copy was made")
    )
    _train(small_data, tmp_path / "plain", checkpoint_async=False)
    for run in ("late", "plain"):
        for name in ("step-00000015", "step-00000020"):
            _same(whole / "checkpoints" / name, tmp_path / run / "checkpoints" / name, tmp_path)


def _said(caplog, words):
    ours = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("torchrec_priors.")
    ]
    return [line for line in ours if words in line]


def _cut(file):
    os.truncate(file, file.stat().st_size - 1)


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "name", "says"),
    [
        (_cut, "rank-0-0.distcp", "rank-0-0.distcp has .* bytes instead of"),
        (_flip, "rank-0-0.distcp", "rank-0-0.distcp does not match its checksum"),
        (Path.unlink, "rank-0-0.distcp", "rank-0-0.distcp is missing"),
        (_cut, ".metadata", ".metadata has .* bytes instead of"),
        (_flip, ".metadata", ".metadata does not match its checksum"),
        (Path.unlink, ".metadata", ".metadata is missing"),
        (Path.unlink, MANIFEST, "checksums.json is missing"),
        (
            lambda file: file.write_text(file.read_text()[:-3]),
            MANIFEST,
            "checksums.json cannot be read",
        ),
        (
            lambda file: file.write_text('{"files": {}}'),
            MANIFEST,
            "checksums.json does not name .metadata",
        ),
        (lambda file: file.write_text("[]"), MANIFEST, "checksums.json cannot be read"),
        (
            lambda file: file.write_text(file.read_text().replace('"format": 2', '"format": 1')),
            MANIFEST,
            "checksums.json cannot be read .it does not match its checksum",
        ),
        (
            lambda file: file.write_text(
                file.read_text().replace('\n "sha256": ', '\n "sha257": ')
            ),
            MANIFEST,
            "checksums.json cannot be read .it has no checksum",
        ),
        (lambda file: None, MANIFEST, None),
    ],
)
def test_every_flaw_is_found(run, harm, name, says):
    place = run / "checkpoints" / "step-00000020"
    harm(place / name)
    with join() as ranks:
        found = flaw(place, ranks)
    assert found == says or re.match(says, found)


def test_a_damaged_newest_checkpoint_is_put_aside_and_the_one_before_used(
    whole, run, small_data, tmp_path, caplog
):
    _flip(run / "checkpoints" / "step-00000020" / "rank-0-0.distcp")
    says = "rank-0-0.distcp does not match its checksum"
    with pytest.raises(UserError, match=f"step-00000020' is damaged .{says}"):
        load_run(run)
    _train(small_data, run)
    (line,) = _said(caplog, "damaged")
    assert f"step-00000020 is damaged ({says}): resuming from step-00000015" in line
    assert _names(run) == ["best.json", "step-00000015", "step-00000020", "step-00000020.damaged"]
    _same(whole / "checkpoints" / "step-00000020", run / "checkpoints" / "step-00000020", tmp_path)
    assert json.loads((run / "checkpoints" / "best.json").read_text())["step"] == 20
    _flip(run / "checkpoints" / "step-00000020" / ".metadata")
    _train(small_data, run)
    assert (run / "checkpoints" / "step-00000020.damaged-2").is_dir(), "what was put aside stays"


def test_where_no_checkpoint_is_whole_nothing_is_touched(run, small_data):
    for name in ("step-00000015", "step-00000020"):
        _flip(run / "checkpoints" / name / "rank-0-0.distcp")
    before = _names(run)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"no checkpoint that is whole \(step-00000020: .*; step-00000015: "
        ):
            _train(small_data, run)
        assert _names(run) == before


def test_a_checkpoint_of_an_earlier_version_is_taken_as_it_is(run, small_data, caplog):
    place = run / "checkpoints" / "step-00000020"
    (place / MANIFEST).unlink()
    (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 20, "ndcg@10": 0.0}))
    metadata = (place / ".metadata").read_bytes()
    (place / "rank-0-0.distcp").rename(place / "__0_0.distcp0")
    (place / ".metadata").write_bytes(
        metadata.replace(b"rank-0-0.distcp", b"__0_0.distcp0"[:15].ljust(15, b"0"))
    )
    (place / "__0_0.distcp0").rename(place / "__0_0.distcp000")
    assert len("rank-0-0.distcp") == len("__0_0.distcp000")
    load_run(run).close()
    assert len(_said(caplog, "has no checksums")) == 1
    assert _train(small_data, run)["steps"] == 20


def _no_room(monkeypatch, steps):
    """The disk is full whenever a checkpoint of one of these steps is written."""
    write = checkpoint_files._HashedFile.write

    def full(file, block):
        if any(f"step-{step:08d}" in file.file.name for step in steps):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, block)

    monkeypatch.setattr(checkpoint_files._HashedFile, "write", full)


@pytest.mark.parametrize("beside", [True, False])
def test_a_checkpoint_that_has_no_room_is_said_and_the_next_one_written(
    whole, small_data, tmp_path, monkeypatch, caplog, beside
):
    _no_room(monkeypatch, [10, 15])
    _train(small_data, tmp_path / "run", checkpoint_async=beside)
    said = _said(caplog, "could not be written")
    assert len(said) == 2
    assert "step-00000010" in said[0]
    assert "No space left on device" in said[0]
    assert _names(tmp_path / "run") == ["best.json", "step-00000005", "step-00000020"]
    _same(
        whole / "checkpoints" / "step-00000020",
        tmp_path / "run" / "checkpoints" / "step-00000020",
        tmp_path,
    )


@pytest.mark.parametrize("beside", [True, False])
def test_a_best_checkpoint_that_has_no_room_ends_the_run_which_then_goes_on(
    whole, small_data, tmp_path, monkeypatch, beside
):
    run = tmp_path / "run"
    _no_room(monkeypatch, [20])
    with pytest.raises(
        OutsideError, match=r"step-00000020 could not be written .No space left on device"
    ):
        _train(small_data, run, checkpoint_async=beside)
    assert _names(run) == ["step-00000010", "step-00000015"]
    assert not (run / "summary.json").exists()
    monkeypatch.undo()
    _train(small_data, run, checkpoint_async=beside)
    _same(whole / "checkpoints" / "step-00000020", run / "checkpoints" / "step-00000020", tmp_path)


@pytest.mark.parametrize("beside", [True, False])
def test_a_last_checkpoint_that_has_no_room_ends_the_run_in_an_error(
    small_data, tmp_path, monkeypatch, beside
):
    values = iter([0.2, 0.1])
    evaluate = loop.evaluate
    monkeypatch.setattr(
        loop, "evaluate", lambda *a, **k: evaluate(*a, **k) | {"ndcg@10": next(values)}
    )
    _no_room(monkeypatch, [20])
    with pytest.raises(OutsideError, match="step-00000020 could not be written"):
        _train(small_data, tmp_path / "run", evaluate_every=10, checkpoint_async=beside)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert _names(tmp_path / "run") == ["best.json", "step-00000010", "step-00000015"]


def test_how_many_are_kept(small_data, tmp_path, monkeypatch):
    values = iter([0.1, 0.2, 0.15, 0.3, 0.25, 0.2])
    evaluate = loop.evaluate
    monkeypatch.setattr(
        loop, "evaluate", lambda *a, **k: evaluate(*a, **k) | {"ndcg@10": next(values)}
    )
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    _train(
        small_data,
        tmp_path / "run",
        steps=30,
        evaluate_every=5,
        keep_last=1,
        keep_best=2,
        patience=0,
    )
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert best["step"] == 20
    assert best["ndcg@10"] == 0.3
    assert (best["before"][0]["step"], best["before"][0]["ndcg@10"]) == (10, 0.2)
    assert _names(tmp_path / "run") == [
        "best.json",
        "step-00000010",
        "step-00000020",
        "step-00000030",
    ]


def test_what_a_kill_leaves_is_removed_and_the_best_is_that_of_the_checkpoint(run, small_data):
    """Killed between the move of the checkpoint and the note that it is the best."""
    (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 15, "ndcg@10": -1.0}))
    (run / "checkpoints" / "step-00000033.partial").mkdir()
    _train(small_data, run)
    assert _names(run) == ["best.json", "step-00000015", "step-00000020"]
    assert json.loads((run / "checkpoints" / "best.json").read_text())["step"] == 20


def test_nothing_in_training_draws_from_a_global_random_state(
    whole, small_data, tmp_path, monkeypatch
):
    """Whatever it is before each step, the run is the same: a checkpoint need not keep it."""
    step, count = trainer.step, iter(range(1000, 2000))

    def with_another_state(*arguments, **named):
        seed = next(count)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        return step(*arguments, **named)

    monkeypatch.setattr(trainer, "step", with_another_state)
    _train(small_data, tmp_path / "run")
    for name in ("step-00000015", "step-00000020"):
        _same(whole / "checkpoints" / name, tmp_path / "run" / "checkpoints" / name, tmp_path)
