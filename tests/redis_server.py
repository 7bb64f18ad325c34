"""A real Redis server for tests, on a free port of the loopback, with its log of writes in a folder."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from ports import free_port


class RedisServer:
    """A server that writes everything to the disk before it answers, unless `durable` is False."""

    def __init__(self, folder: Path, *options: str, durable: bool = True) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("needs redis-server: install the system's package redis-server")
        if importlib.util.find_spec("redis") is None:
            pytest.skip("needs the extra redis: pip install 'torchrec-priors[redis]'")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._options = [*options, "--appendonly", "yes" if durable else "no"]
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Starts the server, and waits until it answers. It reads what it has written before."""
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendfsync", "always", *self._options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        until = time.monotonic() + 300
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kills the server without a warning."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(20)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                # A server that reads its log says LOADING, one with a password NOAUTH.
                return connection.recv(100)[:5] in (b"+PONG", b"-NOAU")
        except OSError:
            return False
