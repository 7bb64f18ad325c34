"""A service as a process of its own, and clients that speak HTTP with it."""

import http.client
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forks import FORKS, meeting_port

from torchrec_priors.apps import command, serve

_START = 120  # seconds


class Service:
    """A process, or several ranks, of `torchrec-priors serve`.

    Attributes:
        processes: one for each rank.
    """

    def __init__(self, arguments: list[str], folder: Path, ranks: int) -> None:
        self._folder = folder
        launched: list[dict[str, str]] = [{}]
        if ranks > 1:
            meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting_port()}
            world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), **meet}
            launched = [{"RANK": str(n), "LOCAL_RANK": str(n), **world} for n in range(ranks)]
        self.processes = [
            FORKS.Process(target=_main, args=(arguments, variables, folder / str(number)))
            for number, variables in enumerate(launched)
        ]
        for process in self.processes:
            process.start()

    def out(self, rank: int = 0) -> str:
        """What a rank has printed."""
        return _text(self._folder / f"{rank}.out")

    def err(self, rank: int = 0) -> str:
        """What a rank has printed on stderr."""
        return _text(self._folder / f"{rank}.err")

    def wait_for(self, text: str) -> None:
        """Waits until rank 0 has printed a text."""
        deadline = time.monotonic() + _START
        while text not in self.out():
            assert self.processes[0].is_alive(), self.err()
            assert time.monotonic() < deadline, self.err()
            time.sleep(0.01)

    @property
    def port(self) -> int:
        """The port of a service that is ready."""
        self.wait_for("Served at ")
        return int(self.out().rsplit(":", 1)[1])

    def end(self, number: int = signal.SIGTERM) -> None:
        """Sends a signal to all ranks, as a launcher does."""
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def codes(self) -> list[int]:
        """Waits until all ranks have ended; returns their exit codes."""
        for process in self.processes:
            process.join(60)
        return [process.exitcode for process in self.processes]


@contextmanager
def service(*arguments: Any, ranks: int = 1) -> Iterator[Service]:
    """Runs a service until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        # Other tests may keep this machine busy.
        given = [str(part) for part in ("--port", 0, "--deadline-ms", 60_000, *arguments)]
        started = Service(given, Path(folder), ranks)
        try:
            yield started
        finally:
            for process in started.processes:
                process.kill()
                process.join()


def call(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Makes a call; returns the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        text = response.read()
        is_json = (response.getheader("content-type") or "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text
    finally:
        connection.close()


def _main(arguments: list[str], variables: dict[str, str], name: Path) -> None:
    """In the process: prints into files, and runs the app."""
    import torch

    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(variables)
    torch.set_num_threads(1)
    sys.argv = ["torchrec_priors.apps.serve", *arguments]
    command.run(serve.serve, arguments)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
