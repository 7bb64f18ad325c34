"""Apps are started with their options, and what they say last is heard."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.experiments.processes import InPlace, OnScheduler


def _wrong(tmp_path):
    return {"dataset": "movilens", "raw": tmp_path, "out": tmp_path / "out"}


SAID = "error: unknown data set 'movilens': did you mean 'movielens'?"


@pytest.mark.slow
def test_in_place(small_raw, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "RANK", "3"
    )  # as a launcher of this process leaves it, which is not the apps' own
    monkeypatch.setenv("WORLD_SIZE", "4")
    launcher, log = InPlace(), tmp_path / "log"
    right = {
        "dataset": "movielens",
        "raw": small_raw,
        "out": tmp_path / "data",
        "horizon": 4,
        "overwrite": True,
    }
    assert launcher.run("prepare", right, [], log) is None
    assert "written to" in log.read_text()
    assert (
        launcher.run("prepare", _wrong(tmp_path), [], log) == f"prepare exited with code 2: {SAID}"
    )


def test_what_runs_in_place_is_ended(tmp_path):
    launcher, log, said = InPlace(), tmp_path / "log", []
    long = {
        "dataset": "marketplace",
        "raw": tmp_path / "raw",
        "out": tmp_path / "out",
        "generate": 30_000_000,
    }
    thread = threading.Thread(target=lambda: said.append(launcher.run("prepare", long, [], log)))
    thread.start()
    deadline = time.monotonic() + 60
    while not launcher._running and time.monotonic() < deadline:
        time.sleep(0.01)
    launcher.stop()
    thread.join(30)
    assert said[0].startswith("prepare ended by signal 15")
    assert launcher.run("prepare", long, [], log) == "stopped"


@pytest.mark.slow
def test_on_a_scheduler(small_raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )  # as in an activated environment
    launcher, log = OnScheduler("local_cwd", "1x1", tmp_path / "logs"), tmp_path / "log"
    right = {"dataset": "movielens", "raw": small_raw, "out": tmp_path / "data"}
    assert launcher.run("prepare", right, [], log) is None
    assert "written to" in log.read_text()
    assert (
        launcher.run("prepare", _wrong(tmp_path), [], log)
        == f"prepare on local_cwd is failed: {SAID}"
    )
    launcher.stop()


CONFIG = """
[component:components/train.py:train]
image = registry/image:1
j = 7x7
gpu = 2
env = NCCL_SOCKET_IFNAME=ib0
mounts = type=volume,src=shared,dst=/shared
init_from = runs/other
"""


def test_runs_are_on_what_torchxconfig_says_of_their_component(tmp_path, monkeypatch):
    (tmp_path / "cluster").write_text(CONFIG)
    monkeypatch.setenv("TORCHXCONFIG", str(tmp_path / "cluster"))
    launcher = OnScheduler("local_cwd", "1x2", tmp_path / "logs")
    (train,) = launcher._definition("train", ["--config", "c.toml", "model.dim=3"]).roles
    assert train.args[-1].endswith(
        "--nproc_per_node 2 --tee 3 --role '' -m torchrec_priors.apps.train -- --config c.toml model.dim=3"
    )
    assert (train.image, train.resource.gpu, train.resource.memMB) == ("registry/image:1", 2, 8192)
    assert train.env["NCCL_SOCKET_IFNAME"] == "ib0"
    assert [(mount.src, mount.dst_path) for mount in train.mounts] == [("shared", "/shared")]
    (evaluate,) = launcher._definition("evaluate", ["--run", "r"]).roles
    assert (evaluate.resource.gpu, evaluate.mounts) == (0, [])
    launcher.stop()


def test_what_no_scheduler_takes_is_refused(tmp_path):
    with pytest.raises(UserError, match="no 'local_cdw': did you mean 'local_cwd'"):
        OnScheduler("local_cdw", "1x1", tmp_path)
    with pytest.raises(UserError, match="-j: '2' cannot be read"):
        OnScheduler("local_cwd", "2", tmp_path)
