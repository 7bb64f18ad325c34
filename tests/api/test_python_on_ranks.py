"""A script that torchrun starts on two ranks trains as one process does, and only rank 0 is seen."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import torchrec_priors as tp

pytestmark = pytest.mark.slow  # torchrun starts two processes, which import torch

SCRIPT = """
import sys
import tiny
import torchrec_priors as tp

def say(line):
    sys.stdout.write(line + "\\n")  # in one piece, because both ranks write into one pipe

run = tp.train(
    tiny.settings(priors={"tree": []}), sys.argv[1], sys.argv[2],
    on_step=lambda step: say(f"seen {step.step}"), track=f"tensorboard:{sys.argv[3]}",
)
say(f"best {run.summary['best_step']} {run.summary['ranks']}")
"""


def test_a_script_on_two_ranks(small_data, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = Path(__file__).resolve().parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{folder.parent}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [
            *torchrun, "--nproc-per-node", "2", tmp_path / "script.py",
            small_data, tmp_path / "two", tmp_path / "board",
        ],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    one = tp.train(tiny.settings(priors={"tree": []}), small_data, tmp_path / "one", progress=False)
    best = f"best {one.summary['best_step']} 2"
    assert lines == [best, best, *(f"seen {step}" for step in (1, 2, 3, 4))]
    assert len(list((tmp_path / "board/two").iterdir())) == 1
