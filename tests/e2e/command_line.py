"""Runs the apps as users do: as commands, alone or on several ranks."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CONFIG = REPOSITORY / "torchx_configs/ml-100k.toml"
TINY = [  # a run of two steps; what is given after these wins
    "model.dim=8",
    "encoder.layers=1",
    "training.steps=2",
    "training.evaluate_every=2",
    "training.batch=8",
]


def app(name, *arguments, ranks=1, cwd=None, check=True, timeout=280):
    """`python -m torchrec_priors.apps.<name>`, under torchrun where there are several ranks."""
    module = ["-m", f"torchrec_priors.apps.{name}"]
    if ranks == 1:
        command = [sys.executable, *module, *map(str, arguments)]
    else:
        torchrun = [BIN / "torchrun", "--standalone", "--nproc-per-node", ranks]  # a free port
        command = [*torchrun, *module, "--", *map(str, arguments)]
    return run(command, cwd=cwd, check=check, timeout=timeout)


def run(command, cwd=None, check=True, timeout=280):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd or REPOSITORY, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
