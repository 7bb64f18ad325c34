"""Starts `serve` as a process, for measurements."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from torchrec_priors.bench.timed import with_threads

_START = 600.0  # seconds
_END = 60.0
_READY = re.compile(r"Served at http://127\.0\.0\.1:(\d+)")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class ServiceProcess:
    """A service that answers on a port of this machine."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self._process = process
        self.port = port

    def peak_bytes(self) -> int:
        """Returns the peak memory of the process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf8")
        found = _PEAK.search(status)
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def started_service(run: Path, options: Sequence[str], threads: int) -> Iterator[ServiceProcess]:
    """Starts a service, and ends it after the block. It keeps no events of users.

    Args:
        run: the folder of the run.
        options: further options of `serve`.
        threads: the threads of the process.

    Raises:
        RuntimeError: the service did not start.
    """
    command = [sys.executable, "-m", "torchrec_priors.apps.serve", "--run", str(run)]
    command += ["--port", "0", "--state", "none:", *options]
    # The service writes a line for each request, and a full pipe would stop it.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=with_threads(threads),
        )
        overdue = Timer(_START, process.kill)
        overdue.start()
        try:
            port = _port(process)
            overdue.cancel()
            if port is None:
                errors.seek(0)
                said = errors.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"serve: exit code {process.wait()}\n{said}")
            yield ServiceProcess(process, port)
        finally:
            overdue.cancel()
            _end(process)


def _port(process: "subprocess.Popen[str]") -> int | None:
    """Waits until the service is ready; None if it has ended before."""
    assert process.stdout is not None
    for line in process.stdout:
        found = _READY.search(line)
        if found is not None:
            return int(found[1])
    return None


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
