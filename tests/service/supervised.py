"""The command `torchrec-priors serve`, started again on the same port whenever it was killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ports import free_port

_ROOT = Path(__file__).parents[2]
_START = 300  # seconds


class Supervised:
    """A service whose process may be killed. Each of its processes has files of its own.

    Attributes:
        port: its port.
        kills: how often it was killed.
    """

    def __init__(self, folder: Path, *arguments: Any) -> None:
        """
        Args:
            folder: for what its processes print.
            arguments: of `serve`, except the port.
        """
        self.port = free_port()
        self.kills = 0
        command = [sys.executable, "-m", "torchrec_priors.apps", "serve", "--port", self.port]
        self._command = [str(part) for part in [*command, *arguments]]
        self._folder = folder
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts a process. It does not wait until the process answers."""
        self._starts += 1
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self._process = subprocess.Popen(self._command, env=environment, stdout=out, stderr=err)

    def wait_until_ready(self) -> None:
        """Waits until the process answers requests."""
        until = time.monotonic() + _START
        while "Served at " not in self._file("out").read_text():
            assert self._process is not None
            assert self._process.poll() is None, self._file("err").read_text()
            assert time.monotonic() < until, self._file("err").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """Kills the process without a warning: `kill -9`."""
        assert self._process is not None
        assert self._process.poll() is None, self._file("err").read_text()
        self._process.kill()
        self._process.wait()
        self.kills += 1
        self._check_log()

    def end(self) -> int:
        """Ends the process as a supervisor does; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(60)
        self._check_log()
        return code

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _check_log(self) -> None:
        """Nothing unexpected has happened in the process: the log has no error."""
        # A killed process may leave a part of a line.
        lines = self._file("err").read_text().splitlines()
        whole = [line for line in lines if line.endswith("}")]
        assert all(json.loads(line)["level"] in ("info", "warning") for line in whole), lines
        assert len(whole) >= len(lines) - 1, lines

    def _file(self, suffix: str) -> Path:
        return self._folder / f"{self._starts}.{suffix}"
