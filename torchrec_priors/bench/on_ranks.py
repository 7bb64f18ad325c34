"""Runs a module on several ranks of this machine, and returns the last line that each prints."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

_POLL = 0.1  # seconds


def last_lines(
    ranks: int, name: str, module: str, arguments: Sequence[str], threads: int
) -> list[str]:
    """Runs a module on several ranks, and returns the last line of each, by rank.

    If a process fails, the others are ended, because they would wait for it.

    Args:
        ranks: the number of processes.
        name: the task of the processes, for the error message.
        module: the module that each process runs.
        arguments: the command-line arguments of the module.
        threads: the number of threads of each process.

    Raises:
        RuntimeError: a process failed. The message has the exit code and the end of the standard
            error.
    """
    launch = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        # A launcher may have set this variable. These ranks must create their own store.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", module, *arguments]

    # A process that writes to a full pipe waits until somebody reads it, so output goes to files.
    outputs: list[tuple[IO[bytes], IO[bytes]]] = [
        (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115
        for _ in range(ranks)
    ]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=out,
            stderr=err,
        )
        for rank, (out, err) in enumerate(outputs)
    ]
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(_POLL)
    finally:
        # Killing the other processes gives them an exit code, too, so failures are noted first.
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        for process in processes:
            process.kill()
            process.wait()

    texts = [(_read(out), _read(err)) for out, err in outputs]
    # One failed rank is enough: others mostly fail because they have lost the connection to it.
    for rank in failed:
        raise RuntimeError(
            f"{name}, rank {rank}: exit code {processes[rank].returncode}\n{texts[rank][1][-2000:]}"
        )
    return [out.strip().splitlines()[-1] for out, _ in texts]


def _read(file: IO[bytes]) -> str:
    """Reads the whole output in a file, and closes the file."""
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def _free_port() -> int:
    """Returns a free port, through which the ranks find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
