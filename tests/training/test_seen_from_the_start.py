"""A training that nobody watches on a terminal says what it is doing from the start."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

from torchrec_priors.apps import command
from torchrec_priors.training import start

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(("rank", "says"), [("0", True), ("1", False), (None, False)])
def test_under_a_launcher_the_first_line_comes_at_once(rank, says, monkeypatch, capsys):
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    with command.starting():
        said = capsys.readouterr().err
    assert said == ("starting PyTorch and TorchRec\n" if says else "")


def test_what_comes_before_the_first_step_is_named(small_data, tmp_path, monkeypatch):
    stages = []

    @contextmanager
    def noted(*, shown):
        assert shown
        yield stages.append

    monkeypatch.setattr(start, "stages", noted)
    tiny.train(tiny.config(training={"steps": 1}), small_data, tmp_path / "run")
    assert stages == [
        "building the model",
        "loading weights",
        "reading what was trained on before",
        "planning the batches",
    ]


@pytest.mark.slow
def test_a_run_under_torchx_shows_its_progress(small_data, tmp_path):
    bin_folder = Path(sys.executable).parent
    path = {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
    torchx = [bin_folder / "torchx", "run", "-s", "local_cwd"]
    train = ["components/train.py:train", "--config", "torchx_configs/small.toml"]
    where = ["--data", small_data, "--run", tmp_path / "run"]
    long = ["training.steps=1000000", "training.evaluate_every=1000000"]
    lines = []
    with subprocess.Popen(
        [str(part) for part in (*torchx, *train, *where, *long)], cwd=REPOSITORY, env=os.environ | path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as launched:  # fmt: skip
        for line in launched.stdout:
            lines.append((time.monotonic(), line))
            if "]:step " in line:
                break
        launched.terminate()
        launched.stdout.read()

    ours = [(at, line.partition("]:")[2]) for at, line in lines if "]:" in line]
    assert ours[0][1] == "starting PyTorch and TorchRec\n"
    (built,) = [at for at, line in ours if line.startswith("tables over 2 ranks")]
    assert "tokens/s" in ours[-1][1]
    assert ours[-1][0] - built < 10
