"""Runs the apps as users do: as commands, alone or on several ranks.

One that runs alone is forked from a server that has imported the apps.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from forks import FORKS

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


def app(name, *arguments, ranks=1, restarts=0, cwd=None, check=True, timeout=280, fresh=False):
    """`python -m torchrec_priors.apps.<name>`, under torchrun where there are several ranks.

    Args:
        restarts: how often torchrun may start them again.
        fresh: in an interpreter of its own, for what reads the environment when it is imported.
    """
    if ranks == 1 and fresh:
        return run([sys.executable, "-m", f"torchrec_priors.apps.{name}", *arguments], cwd, check, timeout)
    if ranks == 1:
        return _forked(name, [str(part) for part in arguments], cwd, check, timeout)
    torchrun = [BIN / "torchrun", "--standalone", "--nproc-per-node", ranks, "--max-restarts", restarts]
    return run([*torchrun, "-m", f"torchrec_priors.apps.{name}", "--", *arguments], cwd, check, timeout)


def run(command, cwd=None, check=True, timeout=280):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd or REPOSITORY, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    return _checked(done, check)


def _forked(name, arguments, cwd, check, timeout):
    with tempfile.TemporaryDirectory() as folder:
        texts = [Path(folder) / stream for stream in ("stdout", "stderr")]
        process = FORKS.Process(
            target=_main, args=(name, arguments, cwd or REPOSITORY, {**os.environ, "OMP_NUM_THREADS": "1"}, texts)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([name, *arguments], timeout)
        done = subprocess.CompletedProcess([name, *arguments], process.exitcode, *(text.read_text() for text in texts))
    return _checked(done, check)


def _main(name, arguments, cwd, environment, texts):
    """In the forked process."""
    for number, text in enumerate(texts, 1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    sys.argv = [f"torchrec_priors.apps.{name}", *arguments]
    importlib.import_module(f"torchrec_priors.apps.{name}").main()


def _checked(done, check):
    if check and done.returncode:
        raise AssertionError(f"{done.args} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
