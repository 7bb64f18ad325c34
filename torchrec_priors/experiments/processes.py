"""Starts `train` and `evaluate` for an experiment, as processes or as TorchX applications."""

import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torchx.runner import get_runner
from torchx.runner.config import apply, get_configs
from torchx.specs import AppDef, AppState
from torchx.specs.builders import materialize_appdef

from torchrec_priors.common.files import append_to
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.launch.builtins import dist
from torchrec_priors.launch.command_line import arguments

# Environment variables of a launcher. With these an app would consider itself one of several ranks.
_OF_A_LAUNCHER = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"
)
_GRACE = 10.0  # seconds that a process has to end before it is killed
_POLL = 2.0  # seconds between two queries of a scheduler
_MEMORY_MB = "8192"  # memory of a node, the default of the components


class Launcher(Protocol):
    """Starts apps and waits for their end. Several threads may do this at the same time."""

    def run(
        self, app: str, options: Mapping[str, object], overrides: list[str], log: Path
    ) -> str | None:
        """Runs an app to its end and appends its output to `log`.

        Returns:
            the last line of the error; None if the app succeeded.
        """

    def stop(self) -> None:
        """Ends the running apps."""


class InPlace:
    """Runs each app as one process on this machine, with one thread."""

    def __init__(self, keep_open: Iterable[int] = ()) -> None:
        """
        Args:
            keep_open: file descriptors that the processes inherit.
        """
        self._keep_open = tuple(keep_open)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def run(
        self, app: str, options: Mapping[str, object], overrides: list[str], log: Path
    ) -> str | None:
        module = f"torchrec_priors.apps.{app}"
        command = [sys.executable, "-m", module, *arguments(options), *overrides]
        environment = {
            name: value for name, value in os.environ.items() if not _OF_A_LAUNCHER.fullmatch(name)
        }
        environment["OMP_NUM_THREADS"] = "1"

        with append_to(log) as stream:
            before = stream.tell()
            # The guard ensures that `stop` ends every process and none is started after it.
            with self._guard:
                if self._stopped:
                    return "stopped"
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=self._keep_open,
                )
                self._running.add(process)
            code = process.wait()
        with self._guard:
            self._running.discard(process)

        if code == 0:
            return None
        ending = f"{app} ended by signal {-code}" if code < 0 else f"{app} exited with code {code}"
        # Before this position, the log may contain the output of earlier attempts.
        output = log.read_bytes()[before:].decode("utf8", "replace")
        return f"{ending}: {_last_line(output.splitlines())}"

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()

        # All processes have the same deadline.
        deadline = time.monotonic() + _GRACE
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


class OnScheduler:
    """Runs each app as a TorchX application. `.torchxconfig` in the working folder applies."""

    def __init__(self, scheduler: str, ranks: str, logs: Path) -> None:
        """
        Args:
            ranks: [min nodes:]nodes x processes per node, in the form of `dist.ddp`.
            logs: the folder for the logs of a local scheduler.

        Raises:
            UserError: the scheduler does not exist, or `ranks` cannot be read.
        """
        if not re.fullmatch(r"(\d+:)?\d*[1-9]\d*x[1-9]\d*", ranks):
            raise UserError(
                f"-j: '{ranks}' cannot be read: write nodes x processes per node, such as 1x2"
            )
        self._runner = get_runner()
        known = self._runner.scheduler_backends()
        if scheduler not in known:
            raise UserError(f"--scheduler: there is no '{scheduler}': {nearest(scheduler, known)}")

        self._scheduler = scheduler
        self._ranks = ranks
        self._settings: dict[str, Any] = {}
        # By default TorchX keeps the logs in a temporary folder.
        if scheduler.startswith("local_cwd"):
            self._settings["log_dir"] = str(logs / "torchx")
        apply(scheduler, self._settings)  # adds the settings of `.torchxconfig`

        self._guard = threading.Lock()
        self._running = set[str]()
        self._stopped = False

    def run(
        self, app: str, options: Mapping[str, object], overrides: list[str], log: Path
    ) -> str | None:
        definition = self._definition(app, arguments(options) + overrides)
        # The guard ensures that `stop` ends every application and none is started after it.
        with self._guard:
            if self._stopped:
                return "stopped"
            handle = self._runner.run(definition, self._scheduler, self._settings)
            self._running.add(handle)
        status = self._runner.wait(handle, wait_interval=_POLL)
        with self._guard:
            self._running.discard(handle)

        lines = self._lines(handle, definition.roles[0].name)
        with append_to(log) as stream:
            stream.writelines(f"{line}\n" for line in lines)

        if status is not None and status.state == AppState.SUCCEEDED:
            return None
        state = status.state.name.lower() if status else "gone"
        return f"{app} on {self._scheduler} is {state}: {_last_line(lines)}"

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            running = list(self._running)
        for handle in running:
            self._runner.cancel(handle)
        self._runner.close()

    def _definition(self, app: str, words: list[str]) -> AppDef:
        """Defines an app on these ranks, with the settings of its component in `.torchxconfig`.

        `torchx run` reads the file in the same way.
        """
        parameters = inspect.signature(dist.ddp).parameters
        component = get_configs("component", f"components/{app}.py:{app}")
        given = {name: value for name, value in component.items() if name in parameters}

        module = f"torchrec_priors.apps.{app}"
        # A value in `.torchxconfig` has precedence over the memory given here.
        fixed = ["-m", module, "--name", f"/{app}", "-j", self._ranks]
        return materialize_appdef(dist.ddp, [*fixed, "--", *words], {"memMB": _MEMORY_MB, **given})

    def _lines(self, handle: str, role: str) -> list[str]:
        """Reads the output of an application, or the reason why it cannot be read."""
        try:
            return [line.rstrip("\r\n") for line in self._runner.log_lines(handle, role)]
        except Exception as error:  # schedulers without logs raise any kind of error
            return [f"no log: {type(error).__name__}: {error}"]


def _last_line(lines: Iterable[str]) -> str:
    """Returns the last line with our own error message; if there is none, the last line.

    A launcher writes its report after our message.
    """
    lines = [line.strip() for line in lines if line.strip()]
    errors = [
        line[line.index("error: ") :] for line in lines if re.match(r"(\[\S+\]:)?\s*error: ", line)
    ]
    return (errors or lines or ["no output"])[-1]
