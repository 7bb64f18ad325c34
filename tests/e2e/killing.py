"""Kills whole commands, and single ranks of a training under torchrun, which starts all of them again."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from command_line import BIN, REPOSITORY

_LOOK = 0.002  # seconds between looks
_LAST_BYTES = 16_384
_AT_MOST = 300.0  # seconds for any of the moments to come


def kill_all_when(there, command: list, seconds: float) -> None:
    """Starts a command in the repository's folder, and kills it with all it started as soon as `there()`."""
    running = subprocess.Popen(
        [str(part) for part in command], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        assert running.poll() is None, "ended before it could be killed"
        time.sleep(0.02)

    family = _family(running.pid)  # torchrun's ranks are of process groups of their own
    for process in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    running.wait()

    # They let go of their files when they are gone.
    while any(map(_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _family(process: int) -> list[int]:
    """A process and all that it started, and those started; all are stopped, so that none starts another one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)
    while _state(process) not in "TZX":
        time.sleep(0.001)

    children = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            children += (task / "children").read_text().split()
    return [process, *(one for child in children for one in _family(int(child)))]


def _alive(process: int) -> bool:
    return _state(process) not in "ZX"


def _state(process: int) -> str:
    """The letter that `ps` shows; X if there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


class Victim:
    """A training on two ranks under torchrun, with `restarts` to spare. `arguments` are those of `train`."""

    def __init__(self, run: Path, arguments: list, log: Path, *, restarts: int, every: int) -> None:
        """
        Args:
            every: steps between evaluations; there is a line of metrics for every step.
        """
        self.run, self.log, self.every = run, log, every
        torchrun = [
            BIN / "torchrun",
            "--standalone",
            "--nproc-per-node",
            2,
            "--max-restarts",
            restarts,
        ]
        command = [*torchrun, "-m", "torchrec_priors.apps.train", "--", *arguments, "--run", run]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        self._killed: set[int] = set()

    def kill(self, moment: str, chance: random.Random, step: int = 0) -> str:
        """Kills a rank at a moment of this kind after all have been started again; what was done, in words.

        Args:
            step: the first at which it may be, but for the moment `start`.
        """
        self._wait(lambda: len(self._ranks()) == 2 and not self._killed & set(self._ranks()))
        ranks = self._ranks()

        if moment == "start":
            self._sleep(chance.uniform(0, 6))
        else:
            before = self._steps()
            self._wait(lambda: self._steps() not in (before, []) and self._steps()[-1] >= step)
            if moment == "step":
                self._sleep(chance.uniform(0, 0.5))
            self._wait(
                {"step": lambda: True, "validation": self._evaluates, "checkpoint": self._writes}[
                    moment
                ]
            )

        victim = chance.choice(ranks)
        at = self._steps()[-1:]
        os.kill(victim, signal.SIGKILL)
        self._killed |= set(ranks)
        return f"{moment}: rank {ranks.index(victim)} after step {at[0] if at else 'none'}"

    def end(self) -> int:
        return self.process.wait(_AT_MOST)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # which ends the ranks
            self.process.wait()

    def _evaluates(self) -> bool:
        steps = self._steps()
        return bool(steps) and steps[-1] % self.every == 0 and steps.count(steps[-1]) == 1

    def _writes(self) -> bool:
        return any((self.run / "checkpoints").glob("*.partial"))

    def _steps(self) -> list[int]:
        """Of the last lines of metrics, evaluations among them."""
        try:
            with (self.run / "metrics.jsonl").open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = stream.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line)["step"] for line in lines if line.startswith(b"{")]

    def _ranks(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return sorted(map(int, children.read_text().split()))

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() >= until)

    def _wait(self, come) -> None:
        deadline = time.monotonic() + _AT_MOST
        while True:
            assert self.process.poll() is None, (
                f"ended before it could be killed:\n{self.log.read_text()[-3000:]}"
            )
            if come():
                return
            assert time.monotonic() < deadline, f"waited in vain:\n{self.log.read_text()[-3000:]}"
            time.sleep(_LOOK)
