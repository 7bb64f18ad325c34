"""A run gives the same numbers every time, and after it was killed."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch
from command_line import BIN, REPOSITORY, app
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

CONFIG = """
[model]
dim = 16
context = 20
horizon = 4
[priors]
tree = ["temporal:2", "genre"]
[encoder]
layers = 1
heads = 2
[negatives]
per_set = 16
[training]
batch = 16
steps = 60
evaluate_every = 20
checkpoint_seconds = 0
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "small.toml"
    file.write_text(CONFIG)
    return file


def _final(folder, tmp_path):
    """Every tensor of the last checkpoint, and the logged numbers that are no times."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    assert last.name == "step-00000060"
    dcp_to_torch_save(last, tmp_path / "flat.pt")
    state = torch.load(tmp_path / "flat.pt", weights_only=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return _tensors(state), [{name: v for name, v in line.items() if name != "seconds"} for line in lines]


def _tensors(state, prefix=""):
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    if isinstance(state, dict):
        return {k: t for name, part in state.items() for k, t in _tensors(part, f"{prefix}/{name}").items()}
    return {}


@pytest.fixture(scope="module")
def uninterrupted(config, small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    app("train", "--config", config, "--data", small_data, "--run", folder, ranks=2)
    return _final(folder, folder.parent)


def _same(first, second):
    tensors, lines = first
    other_tensors, other_lines = second
    assert tensors.keys() == other_tensors.keys()
    assert len(tensors) > 20
    for name, value in tensors.items():
        assert torch.equal(value, other_tensors[name]), name
    assert lines == other_lines


def test_two_runs_of_one_seed_are_identical_to_the_last_bit(config, small_data, uninterrupted, tmp_path):
    app("train", "--config", config, "--data", small_data, "--run", tmp_path / "run", ranks=2)
    _same(_final(tmp_path / "run", tmp_path), uninterrupted)


def test_a_killed_run_goes_on_and_ends_the_same_to_the_last_bit(config, small_data, uninterrupted, tmp_path):
    arguments = ["--config", config, "--data", small_data, "--run", tmp_path / "run"]
    command = [
        BIN / "torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "torchrec_priors.apps.train",
        "--",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [str(part) for part in command], cwd=REPOSITORY, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*[0-9]/.metadata")) and time.monotonic() < deadline:
        assert running.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "run" / "summary.json").exists(), "killed too late to show anything"
    done = app("train", *arguments, ranks=2)
    assert "resuming" in done.stderr
    _same(_final(tmp_path / "run", tmp_path), uninterrupted)


def test_a_finished_run_is_left_as_it_is(config, small_data, tmp_path):
    arguments = ["--config", config, "--data", small_data, "--run", tmp_path / "run", "training.steps=5"]
    first = app("train", *arguments)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = app("train", *arguments)
    assert first.stdout == again.stdout
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_old_checkpoints_are_removed_but_for_the_newest_and_the_best(config, small_data, tmp_path):
    app("train", "--config", config, "--data", small_data, "--run", tmp_path / "run")
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())["step"]
    assert len(kept) <= 3
    assert f"step-{best:08d}" in {path.name for path in kept}


def test_a_checkpoint_of_two_ranks_is_evaluated_by_one_process(config, small_data, tmp_path):
    app(
        "train",
        "--config",
        config,
        "--data",
        small_data,
        "--run",
        tmp_path / "run",
        "training.steps=20",
        ranks=2,
    )
    app("evaluate", "--run", tmp_path / "run", "--split", "validation")
    at_the_end = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    evaluated = json.loads((tmp_path / "run" / "eval" / "validation" / "metrics.json").read_text())
    assert evaluated["ndcg@10"] == pytest.approx(at_the_end["validation/ndcg@10"], abs=1e-6)
