"""Runs the apps as users do: as commands, alone or on several ranks.

They are forked from a server that has imported the apps, which takes seconds.
"""

import importlib
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

from forks import FORKS, meeting_port

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


def app(name, *arguments, ranks=1, restarts=None, cwd=None, check=True, timeout=280):
    """`python -m torchrec_priors.apps.<name>`, on several ranks as under torchrun.

    Args:
        restarts: how often torchrun may start them again; with it they run under torchrun itself.
    """
    arguments = [str(part) for part in arguments]
    if restarts is not None:
        torchrun = [
            BIN / "torchrun",
            "--standalone",
            "--nproc-per-node",
            ranks,
            "--max-restarts",
            restarts,
        ]
        return run(
            [*torchrun, "-m", f"torchrec_priors.apps.{name}", "--", *arguments], cwd, check, timeout
        )
    return _forked(name, arguments, ranks, cwd, check, timeout)


def run(command, cwd=None, check=True, timeout=280):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd or REPOSITORY, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    return _checked(done, check)


def _forked(name, arguments, ranks, cwd, check, timeout):
    with tempfile.TemporaryDirectory() as folder:
        stdouts, stderrs = (
            [Path(folder) / f"{stream}-{rank}" for rank in range(ranks)]
            for stream in ("stdout", "stderr")
        )

        processes = []
        for variables, *texts in zip(_launched(ranks), stdouts, stderrs, strict=True):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
            given = (name, arguments, cwd or REPOSITORY, environment, texts)
            processes.append(FORKS.Process(target=_main, args=given))
        for process in processes:
            process.start()

        code = _end(processes, timeout)
        if code is None:
            raise subprocess.TimeoutExpired([name, *arguments], timeout)

        said = [_joined(texts) for texts in (stdouts, stderrs)]
        done = subprocess.CompletedProcess([name, *arguments], code, *said)
    return _checked(done, check)


def _joined(files):
    """The texts of those that exist."""
    return "".join(file.read_text() for file in files if file.exists())


def _launched(ranks):
    """What a launcher tells each of them; nothing where one runs alone."""
    if ranks == 1:
        return [{}]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting_port()}
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), **meet}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **world} for rank in range(ranks)]


def _end(processes, timeout):
    """The exit code of the first that fails, which ends the others as torchrun does; 0 where none does; None where they
    do not end in time."""
    deadline = time.monotonic() + timeout
    running = list(processes)
    try:
        while running:
            wait([process.sentinel for process in running], deadline - time.monotonic())
            for process in running:
                if process.exitcode:
                    return process.exitcode
            running = [process for process in running if process.exitcode is None]
            if time.monotonic() > deadline:
                return None
        return 0
    finally:
        for process in running:
            process.kill()
            process.join()


def _main(name, arguments, cwd, environment, texts):
    """In the forked process."""
    for number, text in enumerate(texts, 1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "fsspec" in sys.modules:  # which reads FSSPEC_... when it is imported
        sys.modules["fsspec"].config.set_conf_env(sys.modules["fsspec"].config.conf)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    sys.argv = [f"torchrec_priors.apps.{name}", *arguments]
    importlib.import_module(f"torchrec_priors.apps.{name}").main()


def _checked(done, check):
    if check and done.returncode:
        raise AssertionError(f"{done.args} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
